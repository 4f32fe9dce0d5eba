"""`jaxvl evaluate`: the metrics of a trained workdir on one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxvl.core import memory, session, storage
from jaxvl.core.errors import InputError
from jaxvl.core.evaluation import evaluate as run_evaluators
from jaxvl.core.evaluation import mostly_padding
from jaxvl.data.left_out import LeftOut
from jaxvl.verbs.train import eval_streams, save_evaluation


def evaluate(
    workdir: str | Path,
    split: str | None = None,
    checkpoint: int | None = None,
    best: bool = False,
    say: session.Say = print,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
) -> dict[str, float]:
    """Evaluates the newest (best, or named) checkpoint on `split` (default `config.eval.split`), writes
    `WORKDIR/eval/SPLIT.json` (or `OUT/SPLIT.json`) and returns the metrics. overrides: `a.b=value`, of paths only."""
    return evaluate_fully(workdir, split, checkpoint, best, say, overrides, out)["metrics"]


def evaluate_fully(
    workdir: str | Path,
    split: str | None,
    checkpoint: int | None,
    best: bool,
    say: session.Say,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
) -> dict[str, Any]:
    """As `evaluate`; returns `split`, `step` and `metrics`. A workdir that cannot be written only costs the files, and
    `say` tells."""
    with storage.opened(workdir, say, asked=False) as place:
        return _evaluate(place, split, checkpoint, best, place.saying(say), overrides, out)


def _evaluate(
    place: storage.Disk,
    split: str | None,
    checkpoint: int | None,
    best: bool,
    say: session.Say,
    overrides: Sequence[str],
    out: str | Path | None,
) -> dict[str, Any]:
    loaded = session.load(place, checkpoint, best, say, overrides)
    data = session.build_data(loaded.config, place, say)
    session.check_constants(loaded.variables, data, place)
    split = split or loaded.config.eval.split
    left_out = LeftOut()
    streams = eval_streams(loaded.config, data, split, place.folder, left_out)
    read = [s for e in loaded.method.evaluators.values() for s in e.streams or tuple(streams)]
    for name in dict.fromkeys(read):
        if name in streams and (line := mostly_padding(split, name, streams[name], loaded.mesh)):
            say(line)
    with memory.told(f"evaluating split {split!r}", loaded.config):
        metrics, arrays = run_evaluators(loaded.method, loaded.predict, loaded.variables, streams, loaded.mesh, split)
    left_out.tell(say)
    if jax.process_index() == 0:
        try:
            folder = Path(out) if out is not None else place.folder / "eval"
            save_evaluation(folder, split, loaded.step, metrics, arrays)
        except InputError as error:
            if out is not None:
                raise
            say(f"not kept: {error}; --out DIR keeps the results elsewhere")
    return {"split": split, "step": loaded.step, "metrics": metrics}
