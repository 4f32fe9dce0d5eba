"""However one process of a run ends, the others end, too, and say why."""

from __future__ import annotations

import signal

import pytest

from tests.multiprocess.launch import Group


@pytest.fixture(scope="module", autouse=True)
def unanswered(tmp_path_factory):
    """Two runs that nobody joins. They do nothing but wait, so they do it beside the other tests."""
    runs = ("nobody_answers", "nobody_answers_under_slurm")
    return {what: Group(tmp_path_factory.mktemp(what), what, count=1) for what in runs}


@pytest.mark.parametrize(("kind", "code"), [("input", 2), ("bug", 1)])
def test_what_fails_in_one_process_is_the_line_of_all(tmp_path, kind, code):
    group = Group(tmp_path, "fails", workdir=str(tmp_path / "run"), kind=kind)
    assert group.wait() == [code, code]
    other, own = group.texts()
    line = {"input": "planted: this host cannot read its file", "bug": "ZeroDivisionError: planted"}[kind]
    assert line in own
    last = other.strip().splitlines()[-1]
    assert last.startswith("jaxvl: process 1 (")
    assert line in last
    assert "Traceback" not in other


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_by_the_other(tmp_path, victim):
    """Process 0 holds the service through which they speak."""
    group = Group(tmp_path, "slow_toy", workdir=str(tmp_path / "run"), heartbeat=5)
    group.until("step 2/")
    group.children[victim].send_signal(signal.SIGKILL)
    codes = group.wait()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1
    last = group.texts()[1 - victim].strip().splitlines()[-1]
    assert last.startswith(f"jaxvl: process {victim} (")
    assert "ended without a word" in last


def test_a_process_that_nobody_joins_says_so(unanswered):
    group = unanswered["nobody_answers"]
    assert group.wait() == [2]
    (text,) = group.texts()
    last = text.strip().splitlines()[-1]
    assert last.startswith("jaxvl: --coordinator 127.0.0.1:")
    assert "not all of the 2 processes have started within 1 s" in last


def test_hosts_that_are_late_are_no_wrong_input(unanswered):
    """A supervisor starts a run again, but not after exit code 2; hosts of a pod come back minutes apart."""
    group = unanswered["nobody_answers_under_slurm"]
    assert group.wait() == [1]
    (text,) = group.texts()
    last = text.strip().splitlines()[-1]
    assert last.startswith("jaxvl: --distributed: process 0 at localhost:")
    assert "not all of the 2 processes have started within 1 s" in last
