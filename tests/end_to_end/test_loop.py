import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.loop import NotFinite
from jaxvl.core.writers import read_metrics
from jaxvl.verbs import train
from tests import toys

ROOT = Path(__file__).parent.parent.parent


def losses(workdir):
    return {r["step"]: r["loss"] for r in read_metrics(workdir, "train")}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 24 steps and its result."""
    workdir = tmp_path_factory.mktemp("whole")
    config = toys.toy_config(steps=24, checkpoint_every=2)
    result = train.train(config, workdir, method=toys.contrastive(), data=toys.toy_data(), say=quiet)
    return workdir, result


def test_run_leaves_what_the_design_promises(whole):
    workdir, result = whole
    assert {p.name for p in workdir.iterdir()} >= {
        "config.json", "env.json", "metrics.jsonl", "tensorboard", "checkpoints", "integrity", "report.html", "eval",
    }  # fmt: skip
    assert result.stopped is None
    assert result.recompilations == 0
    assert result.metrics["count"] == 21
    assert json.loads((workdir / "eval" / "test.json").read_text())["step"] == 24
    rows = losses(workdir)
    assert sorted(rows) == list(range(1, 25))
    assert rows[24] < rows[1]


def start(workdir, steps=24, pause=0.15, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.kill_child", str(workdir), str(steps), str(pause), *more],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_step(workdir, step, child, limit=120):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if child.poll() is not None:
            raise AssertionError(child.stdout.read())
        if max(losses(workdir), default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def test_five_kills_change_no_loss(whole, tmp_path):
    """kill -9 at random points; every resumed run goes on with the same losses to the last bit."""
    draw = random.Random(7)
    for _ in range(5):
        child = start(tmp_path)
        reached = max(losses(tmp_path), default=0)
        wait_for_step(tmp_path, min(reached + 1, 23), child)
        time.sleep(draw.uniform(0, 0.4))
        child.kill()
        child.wait()
    child = start(tmp_path, pause=0)
    out = child.communicate(timeout=120)[0]
    assert child.returncode == 0, out
    assert "resuming at step" in out
    assert losses(tmp_path) == losses(whole[0])
    kept = [json.loads((p / "eval" / "test.json").read_text())["metrics"] for p in (tmp_path, whole[0])]
    assert kept[0] == kept[1]


def test_a_kill_in_the_middle_of_two_tasks_in_turns_changes_no_loss(tmp_path):
    """It goes on at an odd step, with the second task and with the very next batches of both."""
    config = toys.toy_config(steps=9, checkpoint_every=5, log_every=1)
    train.train(config, tmp_path / "whole", method=toys.in_turns(), data=toys.in_turns_data(), say=quiet)
    whole, killed = losses(tmp_path / "whole"), tmp_path / "killed"
    child = start(killed, 9, 0.01, "turns")
    wait_for_step(killed, 6, child)
    while not (killed / "checkpoints" / "5").is_dir():  # it is written beside the training
        time.sleep(0.02)
    child.kill()
    child.wait()
    child = start(killed, 9, 0, "turns")
    out = child.communicate(timeout=120)[0]
    assert child.returncode == 0, out
    assert "resuming at step 5" in out
    assert losses(killed) == whole
    assert sorted(whole) == list(range(1, 10))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_save_and_exit(whole, tmp_path, number, code):
    child = start(tmp_path)
    wait_for_step(tmp_path, 3, child)
    child.send_signal(number)
    out = child.communicate(timeout=60)[0]
    assert child.returncode == code, out
    assert f"stopped by {signal.Signals(number).name} at step" in out
    stopped = max(losses(tmp_path))
    assert str(stopped) in {p.name for p in (tmp_path / "checkpoints").iterdir()}
    ours, theirs = losses(tmp_path), losses(whole[0])
    assert ours == {s: theirs[s] for s in ours}


@pytest.mark.parametrize("make", [toys.poisoned_row, toys.huge_row])
def test_loss_that_is_not_finite_names_step_and_example(tmp_path, make):
    config = toys.toy_config(steps=40, log_every=4, checkpoint_every=2)
    with pytest.raises(NotFinite, match=r"step \d+: .*\(examples: row37\)") as error:
        train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(make=make), say=quiet)
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert all(step <= error.value.step for step in saved)


def test_other_config_is_refused_resumed_or_set_aside(tmp_path):
    run = lambda config, **how: train.train(  # noqa: E731
        config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=quiet, **how
    )
    run(toys.toy_config(steps=2))
    other = toys.toy_config(steps=4)
    with pytest.raises(InputError, match=r"holds a run of another config \(train.steps: 2 -> 4\).*--resume.*--fresh"):
        run(other)
    assert run(other, resume=True).step == 4
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4]
    assert run(toys.toy_config(steps=1), fresh=True).step == 1
    assert sorted(losses(tmp_path)) == [1]
    assert sorted(losses(tmp_path / "previous" / "0")) == [1, 2, 3, 4]


def test_finished_run_is_not_trained_again(tmp_path):
    config = toys.toy_config(steps=2)
    for _ in range(2):
        result = train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=quiet)
    assert result.step == 2
    assert sorted(losses(tmp_path)) == [1, 2]


def test_no_steps_evaluate_and_keep_the_weights_as_they_are(tmp_path):
    config = toys.toy_config(steps=0)
    run = lambda: train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=quiet)  # noqa: E731
    first, again = run(), run()  # the second time from the checkpoint
    assert first.metrics["count"] > 0
    assert first.metrics == again.metrics
    assert (first.step, losses(tmp_path)) == (0, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["0"]
    (row,) = read_metrics(tmp_path, "eval")
    assert {k: row[k] for k in first.metrics} == first.metrics


def broken_row(record, rng):
    if record % 4 == 1:
        raise BadMedia(f"clip{record}.mp4", "truncated")
    return toys.make_row(record, rng)


def test_too_many_bad_files_stop_the_run_and_few_are_logged(tmp_path):
    config = toys.toy_config(steps=12)
    with pytest.raises(InputError, match=r"media that cannot be decoded, more than .*max_bad_fraction"):
        train.train(config, tmp_path / "a", method=toys.contrastive(), data=toys.toy_data(make=broken_row), say=quiet)
    config.pipeline.max_bad_fraction = 0.5
    lines = []
    train.train(
        config, tmp_path / "b", method=toys.contrastive(), data=toys.toy_data(make=broken_row), say=lines.append
    )
    rows = [json.loads(x) for x in (tmp_path / "b" / "bad_inputs.jsonl").read_text().splitlines()]
    assert {r["reason"] for r in rows} == {"truncated"}
    assert any("training examples could not be read" in line for line in lines)


def test_wrong_batch_is_one_clear_line(tmp_path):
    def narrow(record, rng):
        return {k: v[:-1] if k == "x" else v for k, v in toys.make_row(record, rng).items()}

    with pytest.raises(InputError, match=r"(?s)x.*16"):
        train.train(toys.toy_config(), tmp_path, method=toys.contrastive(), data=toys.toy_data(make=narrow), say=quiet)


def test_an_evaluation_that_cannot_be_costs_no_training(tmp_path):
    evaluator = toys.MeanEvaluator()

    def fails(acc):
        raise InputError("config.eval.ties: nonsense")

    evaluator.compute = fails
    method = dataclasses.replace(toys.contrastive(), evaluators={"mean": evaluator})
    config = toys.toy_config(steps=4, checkpoint_every=99, eval_every=2)
    with pytest.raises(InputError, match="nonsense"):
        train.train(config, tmp_path, method=method, data=toys.toy_data(), say=quiet)
    lines = []
    assert train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=lines.append).step == 4
    assert "resuming at step 2 of 4" in lines


def test_a_metric_that_is_none_costs_no_training(tmp_path):
    config = toys.toy_config(steps=2, checkpoint_every=99)
    config.checkpoint.best_metric = "meen"
    with pytest.raises(
        InputError, match=r"'meen' is none of \['by_id', 'count', 'mean'\] \(step 2 is saved; go on with --resume"
    ):
        train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=quiet)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]
    config.checkpoint.best_metric = "mean"
    lines = []
    train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), resume=True, say=lines.append)
    assert "resuming at step 2 of 2" in lines


@pytest.mark.parametrize(("field", "every"), [("eval.split", 0), ("train.eval_split", 1)])
def test_a_split_that_the_data_lacks_is_named_before_training(tmp_path, field, every):
    config = toys.toy_config(steps=2, eval_every=every)
    group, name = field.split(".")
    config[group][name] = "tset"
    with pytest.raises(InputError, match=rf"config\.{field}: 'tset', but the data has test"):
        train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=quiet)
    assert losses(tmp_path) == {}


def test_values_at_log_steps_do_not_depend_on_the_interval(whole, tmp_path):
    config = toys.toy_config(steps=24, log_every=8, checkpoint_every=24)
    train.train(config, tmp_path, method=toys.contrastive(), data=toys.toy_data(), say=quiet)
    sparse, dense = losses(tmp_path), losses(whole[0])
    assert sorted(sparse) == [1, 8, 16, 24]  # the first is shown at once
    np.testing.assert_array_equal([sparse[s] for s in sparse], [dense[s] for s in sparse])
