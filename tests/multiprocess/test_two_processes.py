"""Two processes of two devices each: the same run as one process of four."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxvl.core.writers import read_metrics
from jaxvl.verbs import train
from tests import toys
from tests.multiprocess import shared

ROOT = Path(__file__).parent.parent.parent
STEPS, LONGER = 4, 6


def quiet(line):
    pass


def losses(workdir):
    return {r["step"]: r["loss"] for r in read_metrics(workdir, "train")}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(workdir, steps, stop="-"):
    """Both processes, started. Their output goes to files: a full pipe would stop them."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # see `keep_if_of_one_device` in tests/conftest.py
    children = []
    for i in range(2):
        log = (workdir.parent / f"{workdir.name}-{i}.log").open("w")
        words = [sys.executable, "-m", "tests.multiprocess.worker", str(port), "2", str(i), str(workdir), str(steps)]
        children.append(subprocess.Popen([*words, stop], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT))
        log.close()
    return children


def finish(children, workdir, limit=120):
    """The outputs. Whatever happens, no process is left."""
    end = time.monotonic() + limit
    try:
        for child in children:
            child.wait(max(1, end - time.monotonic()))
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    texts = [(workdir.parent / f"{workdir.name}-{i}.log").read_text() for i in range(2)]
    assert [c.returncode for c in children] == [0, 0], "\n----\n".join(t[-3000:] for t in texts)
    return texts


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, finish(start(workdir, STEPS), workdir)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process, longer, with the records in the order in which they were made."""
    workdir, made = tmp_path_factory.mktemp("one"), []
    run(workdir, LONGER, made)
    return workdir, made


def run(workdir, steps, made, **how):
    def make(record, rng):
        made.append(record)
        return toys.make_row(record, rng)

    data = toys.toy_data()
    data.train["train"].__dict__["make"] = make
    return train.train(
        shared.config(steps), workdir, method=toys.contrastive(), data=data, say=quiet, pictures=False, **how
    )


def test_two_processes_train_like_one(one, two):
    ours, theirs = losses(two[0]), losses(one[0])
    assert sorted(ours) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([ours[s] for s in ours], [theirs[s] for s in ours], rtol=1e-5)
    assert theirs[4] != theirs[1]


def test_both_processes_end_and_one_of_them_speaks(two):
    workdir, texts = two
    assert all(f"RESULT {STEPS} None 0" in text for text in texts)
    assert f"step {STEPS}/{STEPS}" in texts[0]
    assert "step " not in texts[1]
    rows = [r for r in (workdir / "metrics.jsonl").read_text().splitlines() if '"train"' in r]
    assert len(rows) == STEPS  # not one a process
    assert (workdir / "report.html").is_file()
    assert json.loads((workdir / "env.json").read_text())["processes"] == 2


def test_evaluation_sees_every_example_once(one, two, tmp_path):
    made = []
    run(tmp_path, STEPS, made)
    ours, theirs = (json.loads((w / "eval" / "test.json").read_text())["metrics"] for w in (two[0], tmp_path))
    assert ours["count"] == 21  # 21 examples in batches of 16 over two processes
    assert ours["mean"] == pytest.approx(theirs["mean"], rel=1e-4)


def test_one_process_goes_on_where_two_stopped(one, two, tmp_path):
    workdir = Path(shutil.copytree(two[0], tmp_path / "run"))
    made = []
    result = run(workdir, LONGER, made, resume=True)
    assert result.step == LONGER
    batch = toys.BATCH
    assert made[:batch] == one[1][STEPS * batch : (STEPS + 1) * batch]  # the very next examples
    ours, theirs = losses(workdir), losses(one[0])
    assert sorted(ours) == list(range(1, LONGER + 1))
    np.testing.assert_allclose([ours[s] for s in ours], [theirs[s] for s in ours], rtol=1e-5)


def test_two_processes_go_on_where_one_stopped(one, tmp_path):
    workdir = tmp_path / "run"
    run(workdir, 2, [])
    config = workdir / "config.json"
    config.write_text(config.read_text().replace('"steps": 2', f'"steps": {LONGER}'))
    texts = finish(start(workdir, LONGER), workdir)
    assert "resuming at step 2" in texts[0]
    ours, theirs = losses(workdir), losses(one[0])
    np.testing.assert_allclose([ours[s] for s in ours], [theirs[s] for s in ours], rtol=1e-5)


def test_a_signal_to_one_process_stops_both_at_one_step(one, tmp_path):
    """A preempted host is told alone; both must save the same step."""
    workdir = tmp_path / "run"
    children = start(workdir, 60, "SIGTERM")
    end = time.monotonic() + 100
    while max(losses(workdir), default=0) < 2 and time.monotonic() < end:
        assert all(c.poll() is None for c in children), (tmp_path / "run-0.log").read_text()[-3000:]
        time.sleep(0.05)
    children[1].send_signal(signal.SIGTERM)
    texts = finish(children, workdir)
    said = {text.split("RESULT ")[1].splitlines()[0] for text in texts}
    assert len(said) == 1
    step, stopped, _ = said.pop().split()
    assert stopped == "SIGTERM"
    assert 2 <= int(step) < 60
    assert (workdir / "checkpoints" / step).is_dir()
