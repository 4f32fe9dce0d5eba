"""The state of a run on the device, and how parameters are split between objectives and optimisers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from jaxvl.core import optim
from jaxvl.core.errors import InputError
from jaxvl.core.method import Batch, Method


@flax.struct.dataclass
class TrainState:
    """Everything that an update reads and writes.

    step: int32, updates done. params: the trained tree. mutables: the method's other collections.
    opt_state: one optax state a cell (see `Cells`). rng: key that `step` is folded into. ema: average of
    the parameters, `{}` when off. bad_step: int32, first update whose loss or gradient was not finite, -1
    while all is well; from then on nothing but `step` changes.
    """

    step: jax.Array
    params: Any
    mutables: Any
    opt_state: Any
    rng: jax.Array
    ema: Any
    bad_step: jax.Array

    def variables(self, use_ema: bool = False) -> dict[str, Any]:
        """The collections as Linen wants them, with averaged parameters if asked for and kept."""
        return {"params": self.ema if use_ema and self.ema else self.params, **self.mutables}


def flatten(tree: Any) -> dict[str, jax.Array]:
    """`{path: leaf}`, paths joined by '/'."""
    return traverse_util.flatten_dict(tree, sep="/")


def merge(*flat: Mapping[str, jax.Array]) -> Any:
    """The nested tree of several flat dicts."""
    return traverse_util.unflatten_dict({k: v for part in flat for k, v in part.items()}, sep="/")


@dataclasses.dataclass(frozen=True)
class Cells:
    """Which parameters share an optimiser state.

    Parameters of one optimiser that are trained by exactly the same objectives form a cell. An objective
    updates all of its cells and touches nothing else: neither values nor moments nor step counts of the
    rest, however objectives alternate and overlap.

    members: cell -> parameter paths. of_objective: objective -> cells.
    """

    members: Mapping[str, tuple[str, ...]]
    of_objective: Mapping[str, tuple[str, ...]]
    optimizers: Mapping[str, optim.Optimizer]

    def optimizer(self, cell: str) -> optim.Optimizer:
        """The optimiser that a cell belongs to."""
        return self.optimizers[cell.split(":", 1)[0]]


def build_cells(method: Method, params: Any, config: ConfigDict) -> Cells:
    """Sorts the parameters (arrays or shapes) into cells; raises InputError for a missing `config.optim` entry."""
    flat = flatten(params)
    members: dict[str, list[str]] = {}
    of_objective: dict[str, list[str]] = {name: [] for name in method.objectives}
    used = {o.optimizer for o in method.objectives.values()}
    for missing in sorted(used - set(config.optim)):
        raise InputError(f"config.optim.{missing}: absent, but an objective of {method.name} is updated by it")
    for opt_name in sorted(used):
        sharing = {n: o for n, o in method.objectives.items() if o.optimizer == opt_name}
        for path in flat:
            trainers = [n for n, o in sharing.items() if o.trains_path(path)]
            if trainers:
                members.setdefault(f"{opt_name}:{'+'.join(sorted(trainers))}", []).append(path)
    for cell in members:
        for name in cell.split(":", 1)[1].split("+"):
            of_objective[name].append(cell)
    for name, cells in of_objective.items():
        if not cells:
            raise InputError(f"objective {name!r} of {method.name} trains no parameter: its `trains` matches no path")
    built = {n: optim.build(config.optim[n], config.train.steps, n) for n in sorted(used)}
    return Cells({k: tuple(v) for k, v in members.items()}, {k: tuple(v) for k, v in of_objective.items()}, built)


def create(method: Method, config: ConfigDict, batch: Batch, cells: Cells | None = None) -> TrainState:
    """A fresh state. Traceable: run it under `jax.eval_shape` for shapes, or `jax.jit` with out_shardings."""
    root = jax.random.key(config.seed)
    variables = dict(method.init(jax.random.fold_in(root, 0), batch))
    params = variables.pop("params")
    if cells is None:
        cells = build_cells(method, params, config)
    flat = flatten(params)
    opt_state = {
        cell: cells.optimizer(cell).direction.init({p: flat[p] for p in paths}) for cell, paths in cells.members.items()
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        mutables=variables,
        opt_state=opt_state,
        rng=jax.random.fold_in(root, 1),
        ema=jax.tree.map(jnp.copy, params) if config.train.ema else {},
        bad_step=jnp.full((), -1, jnp.int32),
    )


def dummy_batch(method: Method) -> dict[str, dict[str, jax.Array]]:
    """Zeros of the batch spec; `init` must not depend on the values."""
    return {s: {k: jnp.zeros(v.shape, v.dtype) for k, v in fields.items()} for s, fields in method.batch_spec.items()}


def abstract_state(method: Method, config: ConfigDict) -> TrainState:
    """Shapes and dtypes of the whole state, without memory or computation."""
    return jax.eval_shape(lambda: create(method, config, dummy_batch(method)))
