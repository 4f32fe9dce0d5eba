"""`jaxvl report`: one self-contained HTML page of a run, and the results table of the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxvl.core import registry
from jaxvl.core.errors import InputError
from jaxvl.core.writers import read_metrics
from jaxvl.viz import html, terminal
from jaxvl.viz.curves import series_from_rows

CURVES = ("loss", "lr", "grad_norm", "examples_per_s", "data_wait")


def save_pictures(loaded: Any, data: Any) -> None:
    """Asks the method for its pictures and keeps them in `WORKDIR/pictures/` with their captions."""
    files = registry.module(loaded.config.method, "files") if loaded.config.method in registry.names() else None
    if files is None or not hasattr(files, "pictures"):
        return
    folder = Path(loaded.workdir) / "pictures"
    folder.mkdir(exist_ok=True)
    index = []
    for i, (title, image, caption) in enumerate(files.pictures(loaded, data)):
        name = f"{i:02d}.png"
        image.save(folder / name)
        index.append({"file": name, "title": title, "caption": caption})
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def write(workdir: str | Path) -> Path:
    """Writes `WORKDIR/report.html` from what the run left there and returns its path."""
    from PIL import Image

    workdir = Path(workdir)
    if not (workdir / "config.json").is_file():
        raise InputError(f"--workdir {workdir}: has no config.json, so no run was made there; give a run's folder")
    config = json.loads((workdir / "config.json").read_text())
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
    index = workdir / "pictures" / "index.json"
    if index.is_file():
        for item in json.loads(index.read_text()):
            image = Image.open(workdir / "pictures" / item["file"]).convert("RGB")
            sections.append(html.Picture(item["title"], image, item["caption"]))
    environment = json.loads((workdir / "env.json").read_text()) if (workdir / "env.json").is_file() else {}
    flat = {k: json.dumps(v) if isinstance(v, dict | list) else str(v) for k, v in environment.items()}
    sections.append(html.KeyValues("Environment", flat))
    sections.append(html.KeyValues("Config", {k: json.dumps(v) for k, v in _flat(config)}))
    path = workdir / "report.html"
    path.write_text(html.render_report(f"{config['method']}: {workdir.name}", sections), encoding="utf-8")
    return path


def results_tables(config: dict, result: dict) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """`(title, columns, rows, note)` of one evaluation, laid out by the method's `files` if it wants to."""
    if config["method"] in registry.names():
        files = registry.module(config["method"], "files")
        if hasattr(files, "results_tables"):
            return files.results_tables(result["metrics"])
    return [("Results", ["metric", "value"], [[k, v] for k, v in sorted(result["metrics"].items())], "")]


def show_results(workdir: str | Path, split: str | None = None) -> None:
    """Prints the results tables of a workdir and the path of its report."""
    workdir = Path(workdir)
    config = json.loads((workdir / "config.json").read_text())
    for result in _results(workdir):
        if split is None or result["split"] == split:
            for title, columns, rows, note in results_tables(config, result):
                terminal.table(rows, columns, title=f"{title}, split {result['split']}, step {result['step']}")
                if note:
                    print(note)
    if (workdir / "report.html").is_file():
        print(f"report: {workdir / 'report.html'}")


def _results(workdir: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((workdir / "eval").glob("*.json"))]


def _flat(tree: dict, prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for k, v in tree.items():
        rows += _flat(v, f"{prefix}{k}.") if isinstance(v, dict) else [(f"{prefix}{k}", v)]
    return rows
