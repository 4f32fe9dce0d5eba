"""A pass over a split keeps the device busy, compiles nothing, and tells where it cannot fill the rows."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxvl.core import evaluation, sharding
from jaxvl.core.loop import CompileCounter
from jaxvl.core.method import Examples, Sequences
from jaxvl.verbs import train
from tests import toys

ONE = {"data": 1, "fsdp": 1, "tensor": 1}


def test_outputs_are_fetched_behind_the_batches_that_were_sent(monkeypatch):
    """Five batches of two, nine examples: a later batch is on its way before an earlier one is waited for."""
    mesh, said = sharding.make_mesh(ONE), []

    def read(rows):
        for i in range(5):
            ids = [f"{2 * i + r}" for r in rows]
            yield {"x": np.float32([2 * i, 2 * i + 1]), "_id": ids, "_valid": np.array([True, i < 4])}

    def predict(variables, batch):
        (x,) = batch["s"].values()
        said.append(("sent", int(x[0]) // 2))
        return {"y": 10 * x}

    def fetch(out):
        said.append(("fetched", int(out["y"][0]) // 20))
        return {k: np.asarray(v) for k, v in out.items()}

    monkeypatch.setattr(evaluation, "to_host", fetch)
    pairs = evaluation._outputs(predict, {}, "s", (read, 9, 2), mesh, "test", {})
    assert np.concatenate([out["y"] for out, _ in pairs]).tolist() == [10.0 * i for i in range(9)]
    assert [i for _, fields in pairs for i in fields["_id"]] == [f"{i}" for i in range(9)]
    order = [said.index(("fetched", i)) for i in range(5)]
    assert order == sorted(order)
    for i in range(3):
        assert said.index(("sent", i + evaluation.IN_FLIGHT)) < said.index(("fetched", i))


class Pairs(toys.MeanEvaluator):
    """Asks for blocks of pairs in a second pass, as a cross-encoder does."""

    def refine(self, acc, ask):
        blocks = ({"pairs": {"x": np.full((toys.BATCH, 2), i, np.float32)}} for i in range(5))
        return [*acc, *((f"row{i}", float(out["out"].sum())) for i, out in enumerate(ask(blocks)))]


def paired():
    """The toy with such an evaluator."""

    def predict(variables, batch):
        if "pairs" in batch:
            return {"out": batch["pairs"]["x"] * 2}
        return {"out": batch["test"]["x"] @ variables["params"]["left"]["kernel"][:, :4]}

    pairs = {"pairs": {"x": jax.ShapeDtypeStruct((toys.BATCH, 2), np.float32)}}
    return dataclasses.replace(toys.contrastive(), predict=predict, predict_spec=[pairs], evaluators={"pairs": Pairs()})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with four evaluations of splits of 21 and 5 examples, how often each was compiled, and what was said."""
    said, counted, compiles = [], [], CompileCounter.install()
    data, config = toys.toy_data(), toys.toy_config(steps=4, eval_every=1)
    small = Examples(toys.Rows(5), toys.make_row, toys.row_id, toys.BATCH)
    data.splits["val"] = {"test": small}
    config.train.eval_split = "val"
    patch = pytest.MonkeyPatch()

    def counting(*args, evaluate=train.evaluate):
        before = compiles.count
        found = evaluate(*args)
        counted.append((args[-1], compiles.count - before))
        return found

    patch.setattr(train, "evaluate", counting)
    train.train(config, tmp_path_factory.mktemp("run"), method=paired(), data=data, say=said.append)
    patch.undo()
    return counted, said


def test_no_evaluation_compiles(run):
    """Not for the last batch, which is partly padding, nor for another split, nor for what a second pass asks."""
    counted, _ = run
    assert counted == [("val", 0)] * 3 + [("test", 0)]


def test_devices_that_idle_are_told_once_before_the_first_step(run):
    _, said = run
    assert [line for line in said if line.startswith("split ")] == [
        "split 'val', stream 'test': 5 examples fill 31 % of the rows that are computed, in batches of 16; a batch of "
        "5 would be filled by them"
    ]


@pytest.mark.parametrize(("count", "idle"), [(7, True), (8, False), (16, False), (17, False), (21, False), (1, True)])
def test_half_of_the_rows_is_the_limit(count, idle):
    mesh = sharding.make_mesh({"data": 4, "fsdp": 1, "tensor": 1}, jax.devices()[:4])
    line = evaluation.mostly_padding("test", "s", (iter, count, 16), mesh)
    assert bool(line) == idle
    if idle:
        assert f"a batch of {-(-count // 4) * 4} would be filled" in line


def test_sequences_that_leave_rows_free_are_told():
    """Three sequences in eight rows; the longest of them decides how often all rows are computed."""
    mesh = sharding.make_mesh(ONE)
    lengths = [4, 3, 2]
    sequences = Sequences(range(3), iter, lengths.__getitem__, lambda record: 0, str, 8)
    line = evaluation.mostly_padding("test", "s", evaluation.Followed(sequences), mesh)
    assert "the frames of 3 sequences fill 28 % of the rows" in line  # 9 of 4 x 8
    assert "a batch of 3 would be filled" in line
    assert (
        evaluation.mostly_padding("test", "s", evaluation.Followed(dataclasses.replace(sequences, batch_size=3)), mesh)
        is None
    )
