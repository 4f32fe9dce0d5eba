"""`jaxvl prepare`: reads a data set as training would, reports what is missing, writes ArrayRecord shards or small
videos, or computes the features that a method trains on."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jaxvl.core import fields, registry
from jaxvl.core.errors import InputError
from jaxvl.core.files import printable
from jaxvl.data.bad_media import LEFT_OUT


def prepare(config: ConfigDict, out: str | Path | None, splits: Sequence[str] | None = None) -> None:
    """Reads every split of the config's data and says what was found; given `out`, writes `splits` (all) there.

    The folder can be named in `config.data.root` with `config.data.reader='records'` afterwards.
    Raises InputError: a method without a record form, an unknown split, whatever is wrong with the data.
    """
    config = fields.resolved(config)
    fields.check(config)
    module = registry.module(config.method, "data")
    if out is not None and not hasattr(module, "write_records"):
        other = "--extract computes what it trains on, and " if hasattr(module, "extraction") else ""
        raise InputError(
            f"config.method: {config.method} has no record form; {other}without --out the data is only checked"
        )
    with tempfile.TemporaryDirectory() as scratch:
        data = module.build_data(config, Path(scratch), _say)
        for line in data.reports:
            _say(line)
        if (left := Path(scratch) / LEFT_OUT).is_file():
            print(left.read_text(encoding="utf-8"), end="")
        for split in splits or ():
            if split not in data.splits:
                raise InputError(f"--split {split}: the data has {', '.join(data.splits) or 'none'}")
        if out is not None:
            module.write_records(config, data, Path(out), tuple(splits or ()), _say)
        else:
            print("checked; nothing is written without --out, --shrink or --extract", file=sys.stderr)


def shrink(
    config: ConfigDict,
    out: str | Path,
    splits: Sequence[str] | None = None,
    *,
    short_side: int = 224,
    fps: float = 3.0,
    processes: int | None = None,
) -> None:
    """Encodes every video of the config's data (of `splits`) small into `out`, see `data.shrink.shrink_videos`.

    Raises InputError: a method without videos, an unknown split, whatever is wrong with data or settings.
    """
    from jaxvl.data.shrink import shrink_videos

    config = fields.resolved(config)
    fields.check(config)
    module = registry.module(config.method, "data")
    if not hasattr(module, "media_files"):
        raise InputError(f"config.method: {config.method} reads no video files; --shrink is not for it")
    folder, paths = module.media_files(config, tuple(splits or ()), _say)
    done = shrink_videos(folder, paths, out, short_side=short_side, fps=fps, processes=processes, say=_say)
    for line in done.table():
        _say(line)
    print(f"train from them with --config.data.videos={Path(out).absolute()}")


def extract(
    config: ConfigDict,
    out: str | Path,
    splits: Sequence[str] | None = None,
    *,
    process: int | None = None,
    processes: int | None = None,
) -> None:
    """Computes the features of the config's data (of `splits`) into `out`, see `data.extract.extract_features`.

    process, processes: this one of so many that share the work; by default those of JAX. A run that was stopped goes on
    where it was. Raises InputError: a method without features, whatever is wrong with data, weights or folder.
    """
    import jax

    from jaxvl.core.writers import Progress
    from jaxvl.data.extract import extract_features
    from jaxvl.data.left_out import told

    module = registry.module(config.method, "data")
    if not hasattr(module, "extraction"):
        raise InputError(f"config.method: {config.method} trains on no features; --extract is not for it")
    if (process is None) != (processes is None):
        raise InputError("--process and --processes: give both, or neither")
    process = jax.process_index() if process is None else process
    processes = jax.process_count() if processes is None else processes
    what = module.extraction(config, tuple(splits or ()), _say)
    progress = Progress(len(what.items), what="extract", unit="video", every=10.0)
    try:
        with told(_say):
            done = extract_features(
                out,
                what,
                process=process,
                processes=processes,
                threads=max(1, config.pipeline.threads),
                per_file=config.data.extract.per_file,
                max_bad_fraction=config.pipeline.max_bad_fraction,
                progress=progress,
            )
    finally:
        progress.close()
    for name, reason in done.skipped:
        _say(f"left out {name}: {reason}")
    print(f"{done.done:,} examples in {out}" + (f", {done.frames_per_s:.1f} frames/s" if done.frames_per_s else ""))
    if not done.complete:
        print("files of other processes are missing; the one that ends last writes the index")
        return
    print(f"train from them with --config.data.features={Path(out).absolute()}")


def _say(line: str) -> None:
    print(printable(line))  # names of files may hold anything
