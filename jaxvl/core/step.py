"""The one train step: a jitted, donating, sharded function built from an objective.

Semantics are global: the batch is one array over all devices, so batch statistics and contrastive negatives
need no method code. Accumulated micro-batches give the gradient of the large batch, or are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxvl.core import in_place, optim, precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Batch, Method, Objective
from jaxvl.core.sharding import Mesh, batch_sharding, replicated
from jaxvl.core.state import Cells, TrainState, flatten, merge

StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def build_update(method: Method, name: str, config: ConfigDict, cells: Cells) -> StepFn:
    """The update of objective `name` as a pure function `(state, batch) -> (state, scalars)`, not yet jitted."""
    objective = method.objectives[name]
    accumulate = int(config.train.accumulate)
    check_accumulation(method.name, name, objective, accumulate)
    own = cells.of_objective[name]
    trained_paths = {p for cell in own for p in cells.members[cell]}

    def update(state: TrainState, batch: Batch):
        with jax.default_matmul_precision(precision.matmul_precision(config.precision)):
            return _update(state, batch)

    def _update(state: TrainState, batch: Batch):
        flat = flatten(state.params)
        trained = {k: v for k, v in flat.items() if k in trained_paths}
        frozen = {k: v for k, v in flat.items() if k not in trained_paths}
        rng = jax.random.fold_in(state.rng, state.step)
        (loss, aux), grads = _gradient(objective, trained, frozen, state, batch, rng, accumulate)
        with jax.named_scope("gradient_norm"):
            norm = optax.tree.norm(grads)
            good = jnp.isfinite(loss) & jnp.isfinite(norm) & (state.bad_step < 0)
            if config.train.clip_norm > 0:
                grads = optim.clip_by_norm(grads, norm, config.train.clip_norm)

        opt_state, new = dict(state.opt_state), dict(trained)
        scalars = {"loss": loss, "grad_norm": norm, **aux.scalars}
        for cell in own:
            optimizer = cells.optimizer(cell)
            part = {p: trained[p] for p in cells.members[cell]}
            with jax.named_scope("optimizer"):
                moved = functools.partial(_moved, optimizer)
                own_grads = {p: grads[p] for p in part}
                opt_state[cell], (moves, rate) = in_place.replaced(
                    moved, good, state.opt_state[cell], own_grads, part, state.step
                )
                new.update(in_place.laid_down(in_place.chosen(good, optax.apply_updates(part, moves), part)))
            scalars["lr" if objective.optimizer == "main" else f"lr_{objective.optimizer}"] = rate

        params = merge(new, frozen)
        ema = state.ema
        if config.train.ema:
            with jax.named_scope("average"):
                ema = optax.incremental_update(params, state.ema, 1 - config.train.ema)
        with jax.named_scope("after_update"):
            updated = method.after_update(
                state.replace(
                    step=state.step + 1,
                    params=params,
                    mutables={**state.mutables, **aux.mutables},
                    opt_state=opt_state,
                    ema=ema,
                )
            )
        with jax.named_scope("guard"):
            guarded = _guarded(updated, state, good, params, opt_state)
        return guarded, {**scalars, "bad_step": guarded.bad_step}

    return update


def _moved(optimizer: optim.Optimizer, opt_state: Any, grads: Any, params: Any, step: jax.Array) -> tuple[Any, Any]:
    moves, opt_state, rate = optimizer.updates(grads, opt_state, params, step)
    return opt_state, (moves, rate)


def _guarded(updated: TrainState, state: TrainState, good: jax.Array, params: Any, opt_state: Any) -> TrainState:
    """`updated`, or the old state where a number is not finite or was not in an earlier step. Of `params` and
    `opt_state` that is chosen already; only what `after_update` made of them is chosen here."""

    def chosen(new, old, before):
        pick = lambda n, o, b: b if n is b else jnp.where(good, n, o)  # noqa: E731
        return jax.tree.map(pick, new, old, before)

    return updated.replace(
        params=chosen(updated.params, state.params, params),
        opt_state=chosen(updated.opt_state, state.opt_state, opt_state),
        mutables=in_place.chosen(good, updated.mutables, state.mutables),
        ema=in_place.chosen(good, updated.ema, state.ema),
        bad_step=jnp.where((state.bad_step < 0) & ~good, state.step, state.bad_step),
    )


def jit_update(update: StepFn, mesh: Mesh, shardings: Any) -> Callable:
    """Compiles an update for the mesh: state donated and kept where it is, batch over the batch axes."""

    def on_mesh(state: TrainState, batch: Batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return update(state, batch)

    return jax.jit(
        on_mesh,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def check_accumulation(method: str, name: str, objective: Objective, accumulate: int) -> None:
    """Refuses to accumulate a loss whose micro-batch gradients do not add up to that of the large batch."""
    if accumulate < 1:
        raise InputError(f"config.train.accumulate: needs at least 1, got {accumulate}")
    if accumulate > 1 and objective.loss is not None and not objective.per_example:
        raise InputError(
            f"config.train.accumulate: objective {name!r} of {method} compares examples across the batch and "
            "gives no encode/head pair, so accumulated micro-batches would not equal the large batch; set it to 1"
        )


def _gradient(objective, trained, frozen, state, batch, rng, accumulate):
    """((loss, aux), gradient of `trained`), from the whole batch or from micro-batches."""
    if accumulate == 1:
        return jax.value_and_grad(
            lambda t: objective.value(merge(t, frozen), state.mutables, batch, rng, state.step), has_aux=True
        )(trained)
    micro = split_batch(batch, accumulate)
    keys = jax.random.split(rng, accumulate)
    if objective.loss is not None:
        return _mean_gradient(objective, trained, frozen, state, micro, keys)
    return _paired_gradient(objective, trained, frozen, state, batch, micro, rng, keys, accumulate)


def split_batch(batch: Batch, parts: int) -> Batch:
    """[B, ...] -> [parts, B/parts, ...]; row r goes to part r mod parts, so no row leaves its device."""

    def split(x):
        if x.shape[0] % parts:
            raise InputError(f"config.train.accumulate: {parts} does not divide the batch of {x.shape[0]}")
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def join_batch(parts: Any) -> Any:
    """The inverse of `split_batch`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def _mean_gradient(objective, trained, frozen, state, micro, keys):
    """Mean over micro-batches of a loss that is itself a mean over examples."""

    def one(carry, part):
        piece, key = part
        (loss, aux), grads = jax.value_and_grad(
            lambda t: objective.loss(merge(t, frozen), state.mutables, piece, key, state.step), has_aux=True
        )(trained)
        return jax.tree.map(jnp.add, carry, grads), (loss, aux)

    grads, (losses, aux) = jax.lax.scan(one, jax.tree.map(jnp.zeros_like, trained), (micro, keys))
    k = keys.shape[0]
    scalars = jax.tree.map(lambda x: x.mean(0), aux.scalars)
    return (losses.mean(), Aux({}, scalars)), jax.tree.map(lambda g: g / k, grads)


def _paired_gradient(objective, trained, frozen, state, batch, micro, rng, keys, parts):
    """Exact accumulation of a loss over all pairs: encode piecewise, differentiate the head once over the whole
    batch, pull its cotangents back piece by piece (gradient caching)."""

    def encode(t, piece, key):
        return objective.encode(merge(t, frozen), state.mutables, piece, key, state.step)

    z = join_batch(jax.lax.map(lambda part: encode(trained, *part), (micro, keys)))
    (loss, aux), (head_grads, dz) = jax.value_and_grad(
        lambda t, z: objective.head(merge(t, frozen), z, batch, rng, state.step), argnums=(0, 1), has_aux=True
    )(trained, z)

    def pull(carry, part):
        piece, key, cotangent = part
        _, vjp = jax.vjp(lambda t: encode(t, piece, key), trained)
        return jax.tree.map(jnp.add, carry, vjp(cotangent)[0]), None

    grads, _ = jax.lax.scan(pull, head_grads, (micro, keys, split_batch(dz, parts)))
    return (loss, aux), grads
