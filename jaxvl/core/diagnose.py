"""Which examples are behind a loss that is not finite.

The batch is read again (a stream is a pure function of its position) and probed row by row: a batch that holds
nothing but copies of one row has a finite loss and gradient unless that row itself is at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core import processes
from jaxvl.core.evaluation import device_fields
from jaxvl.core.method import Objective, StreamOpener
from jaxvl.core.sharding import Mesh, put_batch
from jaxvl.core.state import TrainState

SHOWN = 16


def explain(
    objective: Objective,
    streams: Mapping[str, StreamOpener],
    state: TrainState,
    where: Mapping[str, tuple[int, list[str]]],
    mesh: Mesh,
) -> str:
    """`(examples: a, b)`, or the whole batch where no row stands out. `where`: stream -> (batch index, ids)."""
    batches = {stream: next(streams[stream](position)) for stream, (position, _) in where.items()}
    ids = _everybodys([name for _, names in where.values() for name in names])
    guilty = _everybodys(_rows_not_finite(batches))
    if not guilty and jax.process_count() == 1:  # a probe is a collective program; rows differ between processes
        guilty = _probe(objective, state, batches, mesh)
    names = guilty or ids
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"(examples: {shown})" if guilty else f"(no single example stands out; the batch was: {shown})"


def _everybodys(names: list[str]) -> list[str]:
    """The names that any process has."""
    return list(dict.fromkeys(name for part in processes.gather(names) for name in part))


def _rows_not_finite(batches: Mapping[str, Mapping[str, Any]]) -> list[str]:
    guilty: list[str] = []
    for batch in batches.values():
        for value in device_fields(batch).values():
            if np.issubdtype(value.dtype, np.floating):
                bad = ~np.isfinite(value.reshape(len(value), -1)).all(1)
                guilty += [batch["_id"][i] for i in np.flatnonzero(bad)]
    return guilty


def _probe(objective: Objective, state: TrainState, batches, mesh: Mesh) -> list[str]:
    @jax.jit
    def finite(params, batch):
        rng = jax.random.fold_in(state.rng, state.step)
        value, grads = jax.value_and_grad(
            lambda p: objective.value(p, state.mutables, batch, rng, state.step)[0], allow_int=True
        )(params)
        leaves = [g for g in jax.tree.leaves(grads) if jnp.issubdtype(g.dtype, jnp.floating)]
        return jnp.isfinite(value) & jnp.all(jnp.stack([jnp.isfinite(g).all() for g in leaves]))

    rows = max(len(b["_id"]) for b in batches.values())
    guilty = []
    for i in range(rows):
        copies = {
            s: put_batch({k: np.repeat(v[i % len(v)][None], len(v), 0) for k, v in device_fields(b).items()}, mesh)
            for s, b in batches.items()
        }
        if not bool(finite(state.params, copies)):
            guilty += [b["_id"][i % len(b["_id"])] for b in batches.values()]
    names = list(dict.fromkeys(guilty))
    every = {name for b in batches.values() for name in b["_id"]}
    return [] if set(names) == every else names
