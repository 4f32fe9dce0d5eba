"""A part of the state is replaced where it lies, and is not copied first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def replaced(function: Callable, good: jax.Array, state: Any, *arrays: Any) -> tuple[Any, Any]:
    """`function(state, *arrays) -> (new state, rest)`, with the old state where `good` (a scalar) is false.

    `rest` is only to be used where `good` is true. Left to itself, XLA's CPU backend computes a new moment twice: once
    to store it, and once more inside of the parameters' update, which then still reads the old moment. So it copies
    all donated moments first. Here each new array is stored, and what depends on it reads it from there. A TPU computes
    a parameter with its moments in one pass over memory and is left to do so.
    """
    laid = functools.partial(_replaced_first, function)
    return jax.lax.platform_dependent(good, state, *arrays, cpu=laid, default=functools.partial(_replaced, function))


def chosen(good: jax.Array, new: Any, old: Any) -> Any:
    """`new` where `good`, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(good, a, b), new, old)


def laid_down(tree: Any) -> Any:
    """The same arrays, on CPUs stored before anything is computed from them."""
    return jax.lax.platform_dependent(tree, cpu=jax.lax.optimization_barrier, default=lambda tree: tree)


def _replaced(function: Callable, good: jax.Array, state: Any, *arrays: Any) -> tuple[Any, Any]:
    new, rest = function(state, *arrays)
    return chosen(good, new, state), rest


def _replaced_first(function: Callable, good: jax.Array, state: Any, *arrays: Any) -> tuple[Any, Any]:
    """`_replaced` in two halves, with a barrier between what leads to the new state and what follows from it."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(state, *arrays)
    jaxpr, old = closed.jaxpr, jax.tree.leaves(state)
    made = jaxpr.outvars[: len(old)]  # the state comes first
    last = max((i for i, eqn in enumerate(jaxpr.eqns) if not set(made).isdisjoint(eqn.outvars)), default=-1) + 1
    behind = [*jaxpr.outvars, *(v for eqn in jaxpr.eqns[last:] for v in eqn.invars)]
    inside = {v for eqn in jaxpr.eqns[last:] for v in eqn.outvars}
    between = list(dict.fromkeys(v for v in behind if isinstance(v, core.Var) and v not in inside))
    first = jaxpr.replace(eqns=jaxpr.eqns[:last], outvars=between)
    second = jaxpr.replace(eqns=jaxpr.eqns[last:], constvars=[], invars=between)
    values = core.jaxpr_as_fun(core.ClosedJaxpr(first, closed.consts))(*jax.tree.leaves((state, arrays)))
    values = dict(zip(between, values, strict=True))
    stored = [
        chosen(good, v.val if isinstance(v, core.Literal) else values[v], o) for v, o in zip(made, old, strict=True)
    ]
    values |= zip(made, jax.lax.optimization_barrier(stored), strict=True)
    rest = core.jaxpr_as_fun(core.ClosedJaxpr(second, []))(*values.values())
    return jax.tree.unflatten(jax.tree.structure(shape), rest)
