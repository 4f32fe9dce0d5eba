"""The pool of generated poses that a run trains on: drawn on the devices, spread over them, weighted as one.

It is laid out as `[rows, columns, ...]`: a batch has a generated pose for each row, and an update takes one column. The
rows lie where the rows of a batch lie, so nothing moves between devices. It is drawn in blocks of rows, each from a key
of its own and filled up from its own draws: the poses do not depend on how many devices there are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvl.core import sharding
from jaxvl.methods.posegu import crm, generator
from jaxvl.methods.posegu.generator import Settings
from jaxvl.methods.posegu.recipe import Seeds

BLOCK = 2048
"""Least poses of a block: of so few it is sure that four draws for each hold enough valid ones."""
AT_ONCE = 2**18
"""Draws in the memory of a device at a time."""
RULE = r"(^|/)pool/(pose|seed|weight)$"
"""Paths of the leaves that are spread over the batch axes."""


class Pool(NamedTuple):
    """pose `[R, C, 16, 3]`: root-relative, axes of the world, metres. seed `[R, C]` int32. weight `[R, C]`: -1 where
    there is no valid pose. ess: effective sample size as a share of the pool. found: share of it that is valid."""

    pose: jax.Array
    seed: jax.Array
    weight: jax.Array
    ess: jax.Array
    found: jax.Array


def empty(rows: int, columns: int) -> Pool:
    """A pool without a pose."""
    zero = jnp.zeros(())
    shape = (rows, columns)
    return Pool(jnp.zeros((*shape, 16, 3)), jnp.zeros(shape, jnp.int32), jnp.full(shape, -1.0), zero, zero)


def blocks_of(rows: int, columns: int, oversample: int, devices: int = 1) -> tuple[int, int]:
    """`(blocks, turns)`: of how many blocks a pool is made, the largest divisor of `rows` that leaves each `BLOCK`
    poses or more, and in how many turns so many devices draw them."""
    blocks = next(n for n in range(rows, 0, -1) if rows % n == 0 and (rows // n * columns >= BLOCK or n == 1))
    draws = rows // blocks * columns * oversample
    turns = next(
        n for n in range(1, blocks + 1) if blocks % n == 0 and (blocks // n * draws <= devices * AT_ONCE or n == blocks)
    )
    return blocks, turns


def drawn(
    key: jax.Array,
    seeds: Seeds,
    settings: Settings,
    rows: int,
    columns: int,
    mode: str = "default",
    alpha: float = 1 / 12,
    clip_m: float = 10.0,
) -> Pool:
    """A fresh pool with the weights of `crm.weights`, which look at all of it. Traceable; all but key and seeds
    static."""
    blocks, turns = blocks_of(rows, columns, settings.oversample, sharding.batch_devices())
    each, groups = rows // blocks * columns, blocks // turns

    def block(key):
        action = generator.actions(key, seeds, settings, each)
        log_p = generator.log_propensity(action.omega, settings)
        return action.pose, action.seed, log_p, generator.log_target(action.omega, settings), action.valid

    def turn(_, keys):
        return None, sharding.over_batch(jax.vmap(block)(sharding.over_batch(keys)))

    # block g * turns + t has the key of that number, in however many turns they are drawn; the blocks that a device
    # draws, one a turn, so lie beside each other
    keys = jax.random.split(key, blocks).reshape(groups, turns).swapaxes(0, 1)
    _, parts = jax.lax.scan(turn, None, keys)
    whole = lambda x: sharding.over_batch(x.swapaxes(0, 1).reshape(rows, columns, *x.shape[3:]))  # noqa: E731
    pose, seed, log_p, log_q, valid = (whole(x) for x in parts)
    weight = crm.weights(log_p, log_q, mode, alpha, clip_m, valid)
    found = valid.mean(dtype=jnp.float32)
    return Pool(pose, seed, jnp.where(valid, weight, -1.0), crm.effective_share(weight), found)


def column(pool: Pool, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(pose [R, 16, 3], seed [R], weight [R])` of one column."""
    return tuple(jax.lax.dynamic_index_in_dim(x, index, 1, False) for x in (pool.pose, pool.seed, pool.weight))


def sample(pool: Pool, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same with a column of its own for each row, drawn uniformly."""
    rows, columns = pool.seed.shape
    index = jax.random.randint(key, (rows, 1), 0, columns)
    take = lambda x: jnp.take_along_axis(x, index.reshape(rows, 1, *[1] * (x.ndim - 2)), 1)[:, 0]  # noqa: E731
    return take(pool.pose), take(pool.seed), take(pool.weight)


def interleaved(real: jax.Array, generated: jax.Array) -> jax.Array:
    """Rows of both `[A, ...]` and `[B, ...]` as one batch `[A + B, ...]`, in turns, so that each device joins what it
    has."""
    parts = math.gcd(len(real), len(generated))
    fold = lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:])  # noqa: E731
    both = jnp.concatenate([fold(real), fold(generated)], 1)
    return both.reshape(len(real) + len(generated), *real.shape[1:])
