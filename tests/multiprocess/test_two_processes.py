"""Several processes, with their devices in the order of a TPU slice: the same run as one process."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from jaxvl.core.writers import read_metrics
from tests import toys
from tests.multiprocess import shared
from tests.multiprocess.launch import Group
from tests.multiprocess.shared import LONGER, METHODS, STEPS

ORDER = [0, 2, 1, 3]  # rows of a batch belong to processes 0, 1, 0, 1


def losses(workdir):
    return {r["step"]: r["loss"] for r in read_metrics(workdir, "train")}


def metrics(workdir):
    return json.loads((workdir / "eval" / "test.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process, with the records in the order in which they were made."""
    folder, made = tmp_path_factory.mktemp("one"), []

    def make(record, rng):
        made.append(record)
        return toys.make_row(record, rng)

    data = toys.toy_data()
    data.train["train"].__dict__["make"] = make
    shared.toy(folder / "longer", LONGER, data=data)
    shared.toy(folder / "toy", STEPS)
    shared.toy(folder / "blocks", STEPS, data=shared.blocks())
    shared.following(str(folder))
    shared.methods(str(folder))
    return folder, made


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(one[0] / "toy", folder / "gone_on")
    return folder, Group(folder, "all_of_it", order=ORDER, folder=str(folder)).finish()


def assert_same_run(ours, theirs, steps=STEPS):
    ours, theirs = losses(ours), losses(theirs)
    assert sorted(ours) == list(range(1, steps + 1))
    np.testing.assert_allclose([ours[s] for s in ours], [theirs[s] for s in ours], rtol=1e-5)
    assert len(set(theirs.values())) == len(theirs)


@pytest.mark.parametrize("name", ["toy", "blocks"])
def test_two_processes_train_like_one(one, two, name):
    assert_same_run(two[0] / name, one[0] / name)


def test_a_batch_that_both_processes_hold_whole_is_fed_by_both(one, two):
    """A tensor axis over both of them."""
    assert_same_run(two[0] / "tensor", one[0] / "toy")


def test_two_processes_go_on_where_one_stopped(one, two):
    assert_same_run(two[0] / "gone_on", one[0] / "longer", LONGER)
    assert [r["event"] for r in read_metrics(two[0] / "gone_on", "event")] == ["resumed"]


@pytest.mark.parametrize("name", ["toy", "blocks", "tensor"])
def test_evaluation_sees_every_example_once_and_under_its_name(one, two, name):
    """21 examples in batches of 16."""
    ours, theirs = metrics(two[0] / name), metrics(one[0] / ("blocks" if name == "blocks" else "toy"))
    assert ours["count"] == 21
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_both_processes_end_and_one_of_them_speaks(two):
    folder, texts = two
    assert all(f"RESULT {STEPS} None 0" in text for text in texts)
    assert f"step {STEPS}/{STEPS}" in texts[0]
    assert "step " not in texts[1]
    rows = [r for r in (folder / "toy" / "metrics.jsonl").read_text().splitlines() if '"train"' in r]
    assert len(rows) == STEPS  # not one a process
    assert (folder / "toy" / "report.html").is_file()
    assert json.loads((folder / "toy" / "env.json").read_text())["processes"] == 2


def test_workdirs_that_are_not_one_folder_are_found_before_the_first_step(two):
    folder, texts = two
    for text in texts:
        (line,) = [line for line in text.splitlines() if line.startswith("APART")]
        assert "process 1 (" in line
        assert "does not see what process 0 (" in line
    assert not (folder / "disk0" / "metrics.jsonl").exists()


def test_sequences_are_followed_over_two_processes_as_over_one(one, two):
    ours, theirs = (json.loads((folder / "following.json").read_text()) for folder in (two[0], one[0]))
    assert ours == theirs
    assert ours["metrics"]["skipped"] == 1
    assert len(ours["kept"]) == 6


@pytest.mark.parametrize("name", METHODS)
def test_every_method_computes_the_same_in_two_processes(one, two, name):
    ours, theirs = (json.loads((folder / f"{name}.json").read_text()) for folder in (two[0], one[0]))
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-4)
    assert ours["outputs"].keys() == theirs["outputs"].keys()
    for key, value in theirs["outputs"].items():
        np.testing.assert_allclose(ours["outputs"][key], value, rtol=1e-3, atol=1e-4, err_msg=key)


def test_one_process_may_use_the_model_alone_afterwards(two):
    """As the pictures of a report do; arrays over all hosts would need the others in every call."""
    found = json.loads((two[0] / "drdr.json").read_text())
    assert found["alone"].keys() == found["outputs"].keys()
    for key, value in found["outputs"].items():
        np.testing.assert_allclose(found["alone"][key], value, rtol=1e-3, atol=1e-4, err_msg=key)


def test_one_process_goes_on_where_two_stopped(one, two, tmp_path):
    workdir, made = Path(shutil.copytree(two[0] / "toy", tmp_path / "run")), []

    def make(record, rng):
        made.append(record)
        return toys.make_row(record, rng)

    result = shared.toy(workdir, LONGER, make=make)
    assert result.step == LONGER
    batch = toys.BATCH
    assert made[:batch] == one[1][STEPS * batch : (STEPS + 1) * batch]  # the very next examples
    assert_same_run(workdir, one[0] / "longer", LONGER)


def test_four_processes_train_and_evaluate_like_one(one, tmp_path):
    Group(tmp_path, "toy", count=4, order=ORDER, workdir=str(tmp_path / "run"), steps=STEPS).finish()
    assert_same_run(tmp_path / "run", one[0] / "toy")
    assert metrics(tmp_path / "run") == pytest.approx(metrics(one[0] / "toy"), rel=1e-4)


def test_a_signal_to_one_process_stops_both_at_one_step(tmp_path):
    """A preempted host is told alone; both must save the same step."""
    group = Group(tmp_path, "slow_toy", workdir=str(tmp_path / "run"))
    group.until("step 2/")
    group.children[1].send_signal(signal.SIGTERM)
    said = {text.split("RESULT ")[1].splitlines()[0] for text in group.finish()}
    assert len(said) == 1
    step, stopped, _ = said.pop().split()
    assert stopped == "SIGTERM"
    assert 2 <= int(step) < shared.MANY
    assert (tmp_path / "run" / "checkpoints" / step).is_dir()
