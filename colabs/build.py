"""Notebooks from scripts: `python colabs/build.py colabs/NAME.py [--execute]` writes `colabs/NAME.ipynb`.

A cell starts at a line `# %%`; `# %% [markdown]` starts text, each line behind `# `. A code cell `# %% tags=install`
holds notebook commands (`%pip`, `!git`), each behind `# `, and is skipped when the notebook is executed here.
Without `--execute` the outputs that the notebook has are kept as long as its code is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
SKIPPED = "skip-execution"


def cells(script: str) -> list[tuple[str, str, list[str]]]:
    """`(kind, source, tags)` of each cell of a script, in order."""
    found = []
    for part in ("\n" + script).split("\n# %%")[1:]:
        head, _, body = part.partition("\n")
        tags = [t.removeprefix("tags=") for t in head.split() if t.startswith("tags=")]
        kind = "markdown" if "[markdown]" in head else "code"
        body = body.strip("\n")
        if kind == "markdown" or tags:
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
        found.append((kind, body, tags))
    return found


def notebook(script: str) -> nbformat.NotebookNode:
    """The notebook of a script, without outputs; ids are numbers, so that it is the same every time."""
    book = nbformat.v4.new_notebook()
    for number, (kind, source, tags) in enumerate(cells(script)):
        make = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        cell = make(source, id=f"cell-{number:02d}")
        if tags:
            cell.metadata["tags"] = [*tags, SKIPPED]
        book.cells.append(cell)
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata["language_info"] = {"name": "python"}
    return book


def sources(book: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """`(kind, source)` of each cell of a notebook: what must not drift from the script."""
    return [(cell.cell_type, cell.source) for cell in book.cells]


def execute(book: nbformat.NotebookNode, timeout: int = 1200, xla_flags: str = "") -> None:
    """Runs all cells but the tagged ones in a fresh kernel of this interpreter, from the root of the repository."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "jaxvl-here"
        kernel.mkdir()
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "here", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec))
        specs = KernelSpecManager(kernel_dirs=[folder])
        manager = AsyncKernelManager(kernel_name="jaxvl-here", kernel_spec_manager=specs)
        client = NotebookClient(book, km=manager, timeout=timeout, resources={"metadata": {"path": str(ROOT)}})
        # as a reader runs it: on the devices that are there, not on simulated ones
        environment = {**os.environ, "XLA_FLAGS": xla_flags}
        # cleanup_kc: a kernel of a manager that was given is left running otherwise, with all its memory
        client.execute(cleanup_kc=True, env={**environment, "PYTHONPATH": str(ROOT)})
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs: list) -> list:
    """Outputs with the pieces of a stream that follow each other put together."""
    kept: list = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def keep_outputs(old: nbformat.NotebookNode, book: nbformat.NotebookNode) -> None:
    """Takes over the outputs of `old` where all of its code is that of `book`."""
    before, now = ([c for c in b.cells if c.cell_type == "code"] for b in (old, book))
    if [c.source for c in before] == [c.source for c in now]:
        for cell, new in zip(before, now, strict=True):
            new.outputs, new.execution_count = cell.outputs, cell.execution_count


def main() -> int:
    """Builds the notebooks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="+", type=Path, metavar="SCRIPT")
    parser.add_argument("--execute", action="store_true", help="run it and keep its outputs")
    args = parser.parse_args()
    for script in args.scripts:
        path = script.with_suffix(".ipynb")
        book = notebook(script.read_text(encoding="utf-8"))
        if args.execute:
            execute(book)
        elif path.is_file():
            keep_outputs(nbformat.read(path, as_version=4), book)
        nbformat.validate(book)
        nbformat.write(book, path)
        print(f"{path}: {len(book.cells)} cells, {path.stat().st_size / 2**20:.2f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
