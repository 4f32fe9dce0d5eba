"""Tiny methods that exercise the contract: what each of the ten needs of the house, without its model."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core import config as configs
from jaxvl.core.method import Aux, Data, Evaluator, Examples, Method, Objective

DIM, BATCH = 16, 16


def toy_config(**train):
    c = configs.base()
    c.method = "toy"
    c.mesh.data = 1
    c.train.update({"steps": 8, "log_every": 1, "checkpoint_every": 3, **train})
    c.optim.main.update({"lr": 0.01, "weight_decay": 0.01, "schedule": "constant"})
    c.pipeline.threads, c.pipeline.prefetch = 1, 0  # read as they are asked for
    c.eval.split = "test"
    c.train.eval_split = "test"
    return c


def spec(batch=BATCH):
    return {
        "x": jax.ShapeDtypeStruct((batch, DIM), jnp.float32),
        "y": jax.ShapeDtypeStruct((batch, DIM), jnp.float32),
    }


def init_two_towers(rng, batch):
    del batch
    a, b = jax.random.split(rng)
    # wide enough to be sharded by FSDP
    return {
        "params": {
            "left": {"kernel": jax.random.normal(a, (DIM, 2048)) * 0.1, "bias": jnp.zeros(2048)},
            "right": {"kernel": jax.random.normal(b, (DIM, 2048)) * 0.1},
            "scale": jnp.ones(()),
        }
    }


def unit(z):
    return z * jax.lax.rsqrt(jnp.maximum((z * z).sum(-1, keepdims=True), 1e-12))


def encode(params, mutables, batch, rng, step):
    del mutables, rng, step
    b = batch["train"]
    left = jnp.tanh(b["x"] @ params["left"]["kernel"] + params["left"]["bias"])
    return {"left": unit(left), "right": unit(b["y"] @ params["right"]["kernel"])}


def head(params, z, batch, rng, step):
    del batch, rng, step
    sim = jnp.exp(params["scale"]) * jnp.matmul(z["left"], z["right"].T, precision="highest")
    loss = -jnp.diag(jax.nn.log_softmax(sim)).mean()
    return loss, Aux({}, {"sim": sim.mean()})


def contrastive(batch=BATCH, whole_loss=False):
    objective = Objective(encode=encode, head=head)
    if whole_loss:
        objective = Objective(loss=lambda p, m, b, r, s: head(p, encode(p, m, b, r, s), b, r, s))
    return Method(
        name="toy",
        batch_spec={"train": spec(batch)},
        init=init_two_towers,
        objectives={"pair": objective},
        predict=lambda v, b: {"out": b["test"]["x"] @ v["params"]["left"]["kernel"][:, :4]},
        evaluators={"mean": MeanEvaluator()},
    )


def in_turns():
    """Two objectives in turns, each with a stream of its own, on one set of weights."""
    one = contrastive()

    def of(stream):
        return Objective(
            encode=lambda p, m, b, r, s: encode(p, m, {"train": b[stream]}, r, s), head=head, streams=(stream,)
        )

    tasks = ("first", "second")
    return dataclasses.replace(
        one,
        batch_spec={task: spec() for task in tasks},
        objectives={task: of(task) for task in tasks},
        pick=lambda step: tasks[step % 2],
    )


def in_turns_data(make=None):
    """Both streams; what differs is how many records they have."""
    data = toy_data()
    train = {task: Examples(Rows(n), make or make_row, row_id, BATCH) for task, n in (("first", 64), ("second", 48))}
    return dataclasses.replace(data, train=train)


class MeanEvaluator(Evaluator):
    streams = ("test",)

    def init(self):
        return []

    def update(self, acc, stream, outputs, examples):
        return [*acc, *zip(examples["_id"], outputs["out"].sum(-1).tolist())]

    def compute(self, acc):
        by_id = [v * int(name.removeprefix("row")) for name, v in acc]  # tells outputs of other rows
        return {"mean": float(np.mean([v for _, v in acc])), "by_id": float(np.mean(by_id)), "count": len(acc)}


class Rows:
    """A picklable source of indices."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return int(i)


def make_row(record, rng):
    fixed = np.random.default_rng(record)
    x = fixed.normal(size=DIM).astype(np.float32)
    return {"x": x + 0.01 * rng.normal(size=DIM).astype(np.float32), "y": np.roll(x, 1)}


def poisoned_row(record, rng):
    row = make_row(record, rng)
    if record == 37:
        row["x"] = row["x"] * np.float32(np.nan)
    return row


def huge_row(record, rng):
    row = make_row(record, rng)
    if record == 37:
        row["y"] = row["y"] * np.float32(3e38)  # finite, but its squares are not
    return row


def row_id(record):
    return f"row{record}"


def toy_data(n=64, make=make_row, batch=BATCH):
    examples = Examples(Rows(n), make, row_id, batch)
    return Data({"train": examples}, {"test": {"test": Examples(Rows(21), make_row, row_id, batch)}})


def host_batches(n, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield {
            "train": {
                "x": rng.normal(size=(batch, DIM)).astype(np.float32),
                "y": rng.normal(size=(batch, DIM)).astype(np.float32),
            }
        }
