"""Sequences followed frame by frame: every frame once and in order, whatever the rows; states kept apart; bad media."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import sharding
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.evaluation import Followed, evaluate, jit_predict
from jaxvl.core.following import deal
from jaxvl.core.method import Follower, Sequences
from tests import toys

ONE = {"data": 1, "fsdp": 1, "tensor": 1}


class Sums(Follower):
    """A running value `v <- 2 v + x` that the device computes and the next frame needs."""

    streams = ("walks",)

    def fields(self, stream, shape):
        return {"value": jax.ShapeDtypeStruct((shape,), np.float32), "x": jax.ShapeDtypeStruct((), np.float32)}

    def begin(self, stream, frame):
        return {"value": np.full(frame["width"], frame["x"], np.float32), "seen": []}

    def ask(self, state, frame):
        return {"value": state["value"], "x": np.float32(frame["x"])}

    def answer(self, state, frame, outputs):
        return {"value": outputs["value"], "seen": [*state["seen"], frame["x"]]}

    def end(self, state):
        return state["value"].tolist(), state["seen"]

    def compute(self, acc):
        return {"total": sum(v[0] for v, _ in acc.values()), "count": len(acc)}

    def artifacts(self, acc):
        return {name: np.array(seen) for (_, name), (_, seen) in acc.items()}


OPEN = []


def frames(record):
    name, xs, width, bad = record
    OPEN.append(name)
    try:
        for i, x in enumerate(xs):
            if i == bad:
                raise BadMedia(name, "is torn")
            yield {"x": x, "width": width}
    finally:
        OPEN.remove(name)


def sequences(rows, records):
    return Sequences(records, frames, lambda r: len(r[1]), lambda r: r[2], lambda r: r[0], rows)


def records(count=7, seed=0, bad=()):
    rng = np.random.default_rng(seed)
    return [
        (f"walk{i}", rng.integers(0, 5, rng.integers(1, 9)).tolist(), 2 + i % 2, 0 if i in bad else -1)
        for i in range(count)
    ]


def run(source, mesh=ONE, on_error="skip"):
    mesh = sharding.make_mesh(mesh)
    calls = []

    def predict(variables, batch):
        b = batch["walks"]
        return {"value": 2 * b["value"] + b["x"][:, None] + variables}

    method = dataclasses.replace(toys.contrastive(), predict=predict, evaluators={"sums": Sums()})
    jitted = jit_predict(method, mesh, toys.toy_config().precision)

    def counted(variables, batch):
        calls.append(batch["walks"]["value"].shape)
        return jitted(variables, batch)

    metrics, kept = evaluate(method, counted, jnp.float32(0), {"walks": Followed(source, 2, on_error)}, mesh, "test")
    return metrics, kept, calls


@pytest.mark.parametrize(("rows", "mesh"), [(1, ONE), (3, ONE), (16, ONE), (8, {"data": 4, "fsdp": 2, "tensor": 1})])
def test_result_does_not_depend_on_the_rows(rows, mesh):
    metrics, kept, _ = run(sequences(rows, records()), mesh)
    want = 0.0
    for name, xs, _, _ in records():
        value = xs[0]
        for x in xs:
            value = 2 * value + x
        want += value
        assert kept[name].tolist() == xs
    assert metrics == {"total": want, "count": 7}
    assert OPEN == []


def test_calls_are_as_many_as_the_longest_row_and_each_shape_is_a_batch():
    source = sequences(2, records())
    _, _, calls = run(source)
    want = 0
    for width in (2, 3):
        lengths = [len(r[1]) for r in records() if r[2] == width]
        want += max(sum(lengths[i] for i in row) for row in deal(lengths, 2))
    assert len(calls) == want
    assert sorted(set(calls)) == [(2, 2), (2, 3)]


def test_rows_are_filled_evenly():
    lengths = [9, 1, 1, 1, 8, 7, 1]
    dealt = deal(lengths, 3)
    assert sorted(i for row in dealt for i in row) == list(range(7))
    loads = [sum(lengths[i] for i in row) for row in dealt]
    assert max(loads) - min(loads) <= 1
    assert deal([3, 3], 4) == [[0], [1], [], []]


def test_a_torn_sequence_is_counted_and_the_others_are_followed():
    metrics, kept, _ = run(sequences(3, records(bad=(2,))))
    assert metrics["skipped"] == 1
    assert metrics["count"] == 6
    assert "walk2" not in kept
    with pytest.raises(InputError, match=r"walk2.*torn"):
        run(sequences(3, records(bad=(2,))), on_error="raise")
    assert OPEN == []


def test_streams_of_another_kind_are_refused():
    mesh = sharding.make_mesh(ONE)
    method = dataclasses.replace(toys.contrastive(), evaluators={"sums": Sums()})
    with pytest.raises(InputError, match="another kind"):
        evaluate(method, None, None, {"walks": (None, 1, 1)}, mesh, "test")
