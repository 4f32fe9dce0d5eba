"""The package by itself: a wheel, installed outside of the checkout, finds its configs and runs a quickstart."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import tiny

SOURCES = ("jaxvl", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
NOTEBOOK = "slimclr"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel. From a copy: building leaves folders behind."""
    scratch = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (tiny.ROOT / name).is_dir() else shutil.copy
        copy(tiny.ROOT / name, scratch / "source" / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "-w", str(scratch), str(scratch / "source")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(scratch.glob("*.whl"))


@pytest.fixture(scope="module")
def empty(wheel, tmp_path_factory):
    """An empty folder, with a function that runs words there by the installed wheel alone."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*words, **more):
        return subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment | more, capture_output=True, text=True, check=False
        )

    run.folder, run.site = folder, site
    return run


def test_a_wheel_holds_configs_assets_and_the_mark_of_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"jaxvl/configs/{p.parent.name}/{p.name}" for p in (tiny.ROOT / "configs").glob("*/*.py")}
    assert wanted
    assert wanted <= names
    assert {"jaxvl/py.typed", "jaxvl/assets/bpe_simple_vocab_16e6_cut.txt.gz"} <= names
    assert not [n for n in names if n.startswith(("tests/", "configs/", "benchmarks/"))]


def test_listings_and_a_dry_run_work_anywhere(empty):
    done = empty("-c", "import jaxvl; print(jaxvl.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(empty.site)
    done = empty("-m", "jaxvl.cli", "configs")
    assert done.returncode == 0, done.stderr
    assert "centerclip/msrvtt" in done.stdout
    done = empty("-m", "jaxvl.cli", "train", "--config", "configs/slimclr/imagenet.py:mocov3_300", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "train.epochs = 300.0" in done.stdout


def test_a_quickstart_is_trained_and_used(empty):
    words = ["train", "--config", "centerclip/quickstart", "--workdir", "run", *tiny.flags()]
    done = empty("-m", "jaxvl.cli", *words)
    assert done.returncode == 0, done.stderr
    assert (empty.folder / "run" / "report.html").is_file()
    words = ["predict", "--workdir", "run", "--videos", "run/data/videos", "--text", "a red circle", "--top", "2"]
    done = empty("-m", "jaxvl.cli", *words, "--no-sheet", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["queries"][0]["results"]) == 2


def test_a_notebook_runs(empty):
    """Its cells as a script, from a folder without the repository. On one device, as `test_colabs.py` runs it, so that
    its programs come out of the cache."""
    text = (tiny.ROOT / "colabs" / f"{NOTEBOOK}.py").read_text(encoding="utf-8")
    one = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    done = empty("-c", text, JAXVL_TINY="1", XLA_FLAGS=one)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stderr
    assert "sheet: " in done.stdout
