"""`jaxvl report`: one self-contained HTML page of a run, and the results table of the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.core import config as configs
from jaxvl.core import registry, session, storage
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import printable, read_json, replacing, write_text
from jaxvl.core.writers import read_metrics
from jaxvl.data.images import read_image
from jaxvl.viz import html, terminal
from jaxvl.viz.cells import cell
from jaxvl.viz.curves import series_from_rows

CURVES = ("loss", "lr", "grad_norm", "examples_per_s", "step_s", "data_wait")


def save_pictures(loaded: Any, data: Any) -> None:
    """Asks the method for its pictures and keeps them in `WORKDIR/pictures/` with their captions. InputError where they
    cannot be written."""
    files = registry.optional(loaded.config.method, "files")
    if not hasattr(files, "pictures"):
        return
    folder = Path(loaded.workdir) / "pictures"
    index = []
    for i, (title, image, caption) in enumerate(files.pictures(loaded, data)):
        name = f"{i:02d}.png"
        with replacing(folder / name) as unfinished:
            image.save(unfinished, format="PNG")
        index.append({"file": name, "title": title, "caption": caption})
    write_text(folder / "index.json", json.dumps(index, indent=1) + "\n")


def write(workdir: str | Path | storage.Disk, out: str | Path | None = None) -> str:
    """Writes `WORKDIR/report.html` (or `out`) from what the run left there and returns its path. Raises InputError
    where a file of the workdir is damaged, or the page cannot be written."""
    if isinstance(workdir, str | Path):
        with storage.opened(workdir, print, asked=out is None) as place:
            return write(place, out)
    place, workdir = workdir, workdir.folder
    config = session.read_config(place)
    sections: list[Any] = []
    for result in _results(workdir):
        for title, columns, rows, note in results_tables(config, result):
            sections.append(html.Table(f"{title} ({result['split']}, step {result['step']})", columns, rows, note))
    for title, kind in (("Training", "train"), ("Evaluation while training", "eval")):
        rows = [{k: v for k, v in r.items() if isinstance(v, int | float)} for r in read_metrics(workdir, kind)]
        names = [n for n in CURVES if any(n in r for r in rows)]
        names += sorted({k for r in rows for k in r} - set(CURVES) - {"step", "kind"})
        charts = [(name, series_from_rows(rows, [name])) for name in names]
        if len(rows) > 1:
            sections.append(html.Curves(title, charts))
    sections += _pictures(workdir / "pictures")
    mend = "delete it, training writes it again"
    environment = read_json(workdir / "env.json", dict, mend) if (workdir / "env.json").is_file() else {}
    flat = {k: json.dumps(v) if isinstance(v, dict | list) else str(v) for k, v in environment.items()}
    sections.append(html.KeyValues("Environment", flat))
    sections.append(html.KeyValues("Config", {k: json.dumps(v) for k, v in configs.dotted(config)}))
    path = Path(out) if out is not None else workdir / "report.html"
    page = html.render_report(f"{config.method}: {place.title}", sections)
    try:
        write_text(path, page)
    except InputError as error:
        raise error if out is not None else InputError(f"{error}; --out HTML writes the page elsewhere") from None
    return place.shown(str(path))


def _pictures(folder: Path) -> list[Any]:
    """What `save_pictures` kept."""
    index, mend = folder / "index.json", f"delete {folder}, it is only shown"
    if not index.is_file():
        return []
    found = []
    for item in read_json(index, list, mend):
        if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in ("file", "title", "caption")):
            raise InputError(f"{index}: is no list of pictures; {mend}")
        try:
            image = read_image(folder / item["file"]).convert("RGB")
        except (BadMedia, ValueError) as error:
            raise InputError(f"{error}; {mend}") from None
        found.append(html.Picture(item["title"], image, item["caption"]))
    return found


def results_tables(config: Mapping[str, Any], result: dict) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """`(title, columns, rows, note)` of one evaluation, laid out by the method's `files` if it wants to."""
    files = registry.optional(config["method"], "files")
    if hasattr(files, "results_tables"):
        try:
            return files.results_tables(result["metrics"])
        except (KeyError, ValueError, OverflowError) as error:
            raise InputError(
                f"results of split {result['split']!r}: not those of {config['method']} ({error!r}); evaluate again"
            ) from error
    # each value by itself: a column shares its decimals, and an accuracy of 0.908 beside a count would become 0.9
    return [("Results", ["metric", "value"], [[k, cell(v)] for k, v in sorted(result["metrics"].items())], "")]


def show_results(workdir: str | Path, results: Sequence[dict] | None = None) -> None:
    """Prints the results tables of a workdir (or of `results`) and the path of its report."""
    with storage.opened(workdir, print, asked=False) as place:
        config = session.read_config(place)
        for result in _results(place.folder) if results is None else results:
            for title, columns, rows, note in results_tables(config, result):
                terminal.table(rows, columns, title=f"{title}, split {result['split']}, step {result['step']}")
                if note:
                    print(note)
        if (place.folder / "report.html").is_file():
            print(f"report: {printable(place.shown(str(place.folder / 'report.html')))}")


def _results(workdir: Path) -> list[dict]:
    return [read_result(p) for p in sorted((workdir / "eval").glob("*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """What an evaluation kept: `split`, `step`, `metrics`. Raises InputError where the file is damaged."""
    mend = "delete it, and evaluate again"
    found = read_json(path, dict, mend)
    metrics = found.get("metrics")
    good = isinstance(found.get("split"), str) and isinstance(found.get("step"), int) and isinstance(metrics, dict)
    if not good or any(isinstance(v, bool) or not isinstance(v, int | float) for v in metrics.values()):
        raise InputError(f"{path}: holds no results of an evaluation; {mend}")
    return found
