"""Notebooks equal their scripts, carry outputs of a whole run, and run from top to bottom at toy size."""

import importlib.util
import json
import os
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(p for p in (ROOT / "colabs").glob("*.py") if p.name != "build.py")

spec = importlib.util.spec_from_file_location("colabs_build", ROOT / "colabs" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

TABLES = {
    **{"centerclip": "text to video", "drdr": "Accuracy per domain", "slimclr": "linear probe"},
    **{"mist": "Accuracy by global", "afe_cnn": "Accuracy of each class"},
    **{"utt": "One object, followed from its first box", "posegu": "Errors of lifted poses"},
}
"""What the results table of each notebook's method is called."""
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)


def stored(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def test_cells_are_cut_as_documented():
    script = (
        "# %% [markdown]\n# # Head\n#\n# text\n\n# %% tags=install\n# %pip install -q .\n\n# %%\nx = 1\n\n# a note\n"
    )
    assert build.cells(script) == [
        ("markdown", "# Head\n\ntext", []),
        ("code", "%pip install -q .", ["install"]),
        ("code", "x = 1\n\n# a note", []),
    ]


def test_outputs_are_kept_while_the_code_is_the_same():
    script = "# %% [markdown]\n# text\n\n# %%\nx = 1\n"
    old = build.notebook(script)
    old.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    for other, kept in ((script.replace("text", "words"), True), (script.replace("x = 1", "x = 2"), False)):
        new = build.notebook(other)
        build.keep_outputs(old, new)
        assert (new.cells[1].outputs == old.cells[1].outputs) is kept


def test_there_is_a_notebook_for_every_script():
    assert SCRIPTS
    assert {p.stem for p in (ROOT / "colabs").glob("*.ipynb")} == {p.stem for p in SCRIPTS}


@each_script
def test_notebook_does_not_drift_from_its_script(script):
    made = build.notebook(script.read_text())
    assert build.sources(stored(script)) == build.sources(made)
    assert [c.metadata.get("tags") for c in stored(script).cells] == [c.metadata.get("tags") for c in made.cells]


@each_script
def test_committed_outputs_are_of_one_whole_run(script):
    run = [c for c in stored(script).cells if c.cell_type == "code" and "install" not in c.metadata.get("tags", [])]
    assert [c.execution_count for c in run] == list(range(1, len(run) + 1))
    outputs = [o for c in run for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert sum("image/jpeg" in o.get("data", {}) for o in outputs) >= 3
    text = "".join(o.get("text", "") for o in outputs)
    assert re.search(r"step (\d{3,})/\1\b", text)
    assert TABLES[script.stem] in text
    assert script.with_suffix(".ipynb").stat().st_size < 1.5 * 2**20
    assert str(Path.home()) not in json.dumps(outputs)


@each_script
def test_notebook_runs_at_toy_size(script, monkeypatch):
    monkeypatch.setenv("JAXVL_TINY", "1")
    monkeypatch.setenv("PYTHONSTARTUP", str(ROOT / "tests" / "kernel_start.py"))
    book = build.notebook(script.read_text())
    quick = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    build.execute(book, timeout=300, xla_flags=quick)  # raises where a cell does
    text = "".join(o.get("text", "") for c in book.cells if c.cell_type == "code" for o in c.outputs)
    assert "step 4/4" in text
    assert "sheet: " in text
    assert sum("image/jpeg" in o.get("data", {}) for c in book.cells for o in c.get("outputs", [])) >= 3
