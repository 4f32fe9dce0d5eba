"""What the processes of a run do together, and the test that compares them does alone."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxvl.core import config as configs
from jaxvl.core import processes, session, sharding
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.method import Data, Examples
from jaxvl.verbs import train
from tests import toys
from tests.core import test_following
from tests.methods.tiny import TINY
from tests.multiprocess.launch import free_port

DEVICES = 4
STEPS, LONGER, MANY = 4, 6, 60
UPDATES = 3
TENSOR = {"data": 1, "tensor": DEVICES}  # every process has the whole batch


def quiet(line: str) -> None:
    """Says nothing."""


def config(steps: int, mesh: dict[str, int] | None = None):
    """The toy's config over four devices, however many processes hold them."""
    c = toys.toy_config(steps=steps, checkpoint_every=2)
    c.mesh.update({"data": DEVICES, **(mesh or {})})
    return c


def toy(workdir: str, steps: int, make=toys.make_row, data: Data | None = None, method=None, mesh=None):
    """Trains the toy; its test split has 21 examples, which no batch divides."""
    result = train.train(
        config(steps, mesh), workdir, method=method or toys.contrastive(), data=data or toys.toy_data(make=make),
        resume=True, pictures=False, say=quiet,
    )  # fmt: skip
    print("RESULT", result.step, result.stopped, result.recompilations, flush=True)
    return result


def blocks() -> Data:
    """Two domains of 10 and 40 records, of which every batch has 6 and 10."""
    plain = toys.toy_data()
    mixed = Examples(toys.Rows(50), toys.make_row, toys.row_id, toys.BATCH, blocks=((10, 6), (40, 10)))
    return dataclasses.replace(plain, train={"train": mixed})


def over_tensor():
    """The toy with its first layer spread over the tensor axis."""
    return dataclasses.replace(toys.contrastive(), partition_rules=((r"left/kernel$", P(None, "tensor")),))


EVERY = bool(os.environ.get("JAXVL_TEST_ALL"))
"""Whether the tests that take longest run, too."""
METHODS = tuple(TINY) if EVERY else ("drdr", "slimclr")
"""Methods that are compared over processes: two streams, a loss over all pairs of the batch, batch statistics and other
mutable state. The others use nothing of the house that these do not, and compile for minutes; JAXVL_TEST_ALL=1 takes
all."""


def methods(folder: str) -> None:
    """Methods at their tiny size: losses of a few updates and all outputs of `predict`."""
    for name in METHODS:
        tiny = TINY[name]()
        c = configs.from_json(configs.to_json(tiny.config))
        c.mesh.update({"data": DEVICES, "fsdp": 1, "tensor": 1})
        compiled = session.compile_method(c)
        state, losses = compiled.fresh_state(), []
        for step in range(UPDATES):
            objective = compiled.method.objective_at(step)
            batch = {s: tiny.batch(step)[s] for s in compiled.method.objectives[objective].streams}
            state, scalars = compiled.updates[objective](state, own_rows(batch, compiled.mesh))
            losses.append(float(scalars["loss"]))
        outputs = {}
        for batch in tiny.predict(0):
            got = compiled.predict(state.variables(), own_rows(batch, compiled.mesh))
            outputs |= {k: np.asarray(v).tolist() for k, v in sharding.to_host(got).items()}
        found = {"losses": losses, "outputs": outputs}
        if name == "drdr":
            model = session.Loaded(
                c, Path(folder), compiled.method, compiled.mesh, state.variables(), compiled.predict, UPDATES
            )
            model = session.on_one_device(model)  # all take part; what follows is one process's own affair
            if jax.process_index() == 0:
                got = model.predict(model.variables, tiny.predict(0)[0])
                found["alone"] = {k: np.asarray(v).tolist() for k, v in got.items()}
        if jax.process_index() == 0:
            Path(folder, f"{name}.json").write_text(json.dumps(found))


def following(folder: str) -> None:
    """Seven sequences, one of them torn, followed by eight rows over all devices."""
    source = test_following.sequences(8, test_following.records(bad=(2,)))
    metrics, kept, _ = test_following.run(source, {"data": DEVICES, "fsdp": 1, "tensor": 1})
    if jax.process_index() == 0:
        found = {"metrics": metrics, "kept": {k: v.tolist() for k, v in kept.items()}}
        Path(folder, "following.json").write_text(json.dumps(found))


def own_rows(batch, mesh):
    """The batch on the devices, of which this process gives its own rows."""
    size = len(jax.tree.leaves(batch)[0])
    rows = sharding.rows_of_process(mesh, size, jax.process_index())
    return sharding.put_batch(jax.tree.map(lambda x: x[rows], batch), mesh, size)


def all_of_it(folder: str) -> None:
    """Everything that two processes do in the time of one start."""
    run = Path(folder)
    try:
        toy(str(run / f"disk{jax.process_index()}"), STEPS)
    except InputError as error:
        print("APART", error, flush=True)
    toy(str(run / "toy"), STEPS)
    toy(str(run / "gone_on"), LONGER)
    toy(str(run / "blocks"), STEPS, data=blocks())
    toy(str(run / "tensor"), STEPS, method=over_tensor(), mesh=TENSOR)
    following(folder)
    methods(folder)


def in_a_bucket(workdir: str) -> None:
    """A run whose every 16th record cannot be read."""
    toy(workdir, STEPS, make=torn_row)


TORN = (3, 19, 35, 51)


def torn_row(record, rng):
    """A row, unless its file is torn."""
    if record in TORN:
        raise BadMedia(f"{record}.mp4", "planted")
    return toys.make_row(record, rng)


def slow_toy(workdir: str) -> None:
    """A run that is long enough for a signal to find it under way."""
    toy(workdir, MANY, make=slow_row)


def slow_row(record, rng):
    """A row that takes its time."""
    time.sleep(0.2 / toys.BATCH)
    return toys.make_row(record, rng)


def fails(workdir: str, kind: str) -> None:
    """A run that goes wrong in process 1 alone, while the other waits for it in a collective."""
    seen = []

    def row(record, rng):
        seen.append(record)
        if jax.process_index() == 1 and len(seen) > 2 * toys.BATCH:
            raise (
                InputError("planted: this host cannot read its file")
                if kind == "input"
                else ZeroDivisionError("planted")
            )
        return toys.make_row(record, rng)

    try:
        toy(workdir, MANY, make=row)
    except InputError as error:  # as the command line does
        print(f"jaxvl: {error}", flush=True)
        processes.fail(str(error), 2)


def nobody_answers() -> None:
    """Process 0 of two, of which the other never comes."""
    processes.START_SECONDS = 1
    processes.connect(f"127.0.0.1:{free_port()}", 2, 0)


def nobody_answers_under_slurm() -> None:
    """The same where JAX finds the address."""
    nodes = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    os.environ.update(nodes, SLURM_JOB_ID="1", SLURM_NTASKS="2", SLURM_PROCID="0", SLURM_LOCALID="0")
    os.environ["JAX_COORDINATOR_PORT"] = str(free_port())
    processes.START_SECONDS = 1
    processes.connect(find=True)
