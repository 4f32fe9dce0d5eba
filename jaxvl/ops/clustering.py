"""k-medoids++ and spectral clustering of token sets, batched and deterministic.

Numerics are canonical, so that a result is reproducible: distances in float32 at highest matmul precision from
mean-centred points, symmetrised, with a diagonal of exactly 0; equal points have distance exactly 0 and the same
distances to all others, whatever order a product adds in; `D = d − I` wherever a nearest medoid is sought, so that a
medoid always belongs to its own cluster, even among duplicates. Ties go to the lowest index. Because
of the exact zero diagonal the two members of a cluster of two tie exactly, and the earlier one wins.

Source: CenterCLIP (arXiv 2205.00823) section 3; KKZ initialisation: Katsavounidis, Kuo, Zhang 1994.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core import sharding
from jaxvl.core.errors import InputError

METRICS = ("l2", "l1", "cosine")
GRAPHS = ("heat", "knn")
NORM_EPS = 1e-6
MAX_BYTES = 256 * 2**20
HIGHEST = jax.lax.Precision.HIGHEST


class KMedoids(NamedTuple):
    """Result of a clustering of N points into K clusters.

    medoids: `[..., K]` int32, ascending, distinct. assign: `[..., N]` int32, index into `medoids`.
    iterations: `[...]` int32, update passes until nothing moved, the confirming one included.
    """

    medoids: jax.Array
    assign: jax.Array
    iterations: jax.Array


class SpectralKMedoids(NamedTuple):
    """`KMedoids` fields, and `mean_degree` `[...]` of the graph: 1 means that no two points are connected, so the
    embedding is arbitrary (sigma too small for the data)."""

    medoids: jax.Array
    assign: jax.Array
    iterations: jax.Array
    mean_degree: jax.Array


def unit_rows(x: jax.Array) -> jax.Array:
    """`x / (‖x‖ + 1e-6)` over the last axis."""
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + NORM_EPS)


def pairwise_distances(x: jax.Array, metric: str = "l2") -> jax.Array:
    """Distances `[..., N, N]` float32 between points `[..., N, W]`; symmetric, exactly 0 between equal points.

    metric: 'l2', 'l1', or 'cosine' = `1 − x̂·ŷ` with `x̂ = x/(‖x‖ + 1e-6)`. Raises InputError on another.
    """
    x = x.astype(jnp.float32)
    first = first_equal(x)
    if metric == "l1":
        d = jnp.abs(x[..., :, None, :] - x[..., None, :, :]).sum(-1)
    elif metric == "cosine":
        x = unit_rows(x)
        d = jnp.maximum(1.0 - _gram(x), 0.0)
    elif metric == "l2":
        return jnp.sqrt(squared_distances(x))
    else:
        raise InputError(f"metric: {metric!r} is unknown; use one of {METRICS}")
    return _canonical(d, first)


def squared_distances(x: jax.Array) -> jax.Array:
    """Squared euclidean distances `[..., N, N]` float32 of `[..., N, W]`: not negative, exactly 0 between equal points.

    The mean is subtracted first: distances do not change, and cancellation is far smaller for points that share
    a large common vector, as CLIP's tokens do.
    """
    x = x.astype(jnp.float32)
    first = first_equal(x)
    x = x - x.mean(-2, keepdims=True)
    norms = (x * x).sum(-1)
    return _canonical(jnp.maximum(norms[..., :, None] + norms[..., None, :] - 2 * _gram(x), 0.0), first)


def first_equal(x: jax.Array) -> jax.Array:
    """Index `[..., N]` int32 of the first point equal to each of `[..., N, W]`, bit for bit (0 and −0 are equal).

    Two 32-bit sums over scrambled bits stand for a point: whole numbers add up exactly in any order, and comparing
    them costs N² where comparing the points would cost N² W.
    """
    x = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # `x + 0.0` is simplified away
    odd = np.random.default_rng(0).integers(0, 2**31, (2, x.shape[-1]), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    sums = []
    for step, factors in zip((16, 13), odd):
        mixed = (bits ^ (bits >> step)) * np.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 15)) * np.uint32(0xC2B2AE35)
        sums.append(((mixed ^ (mixed >> 16)) * factors).sum(-1, dtype=jnp.uint32))
    equal = [a[..., :, None] == a[..., None, :] for a in sums]
    return _first_argmin(jnp.where(equal[0] & equal[1], 0, 1), axis=-1)


def kkz_init(d: jax.Array, score: jax.Array, k: int) -> jax.Array:
    """KKZ seeds `[..., K]` int32 in order of choice: the highest score, then always the farthest point from all chosen.

    d: `[..., N, N]` distances with zero diagonal; score: `[..., N]`, usually the norms of the uncentred points.
    """
    index = jnp.arange(d.shape[-1])

    def lowered(i):  # row i of D = d − I, without a second [N, N] array
        return _rows(d, i[..., None])[..., 0, :] - (index == i[..., None])

    def body(j, carry):
        medoids, best = carry
        nxt = jnp.argmax(best, -1).astype(jnp.int32)
        return medoids.at[..., j].set(nxt), jnp.minimum(best, lowered(nxt))

    first = jnp.argmax(score, -1).astype(jnp.int32)
    medoids = jnp.zeros((*first.shape, k), jnp.int32).at[..., 0].set(first)
    return jax.lax.fori_loop(1, k, body, (medoids, lowered(first)))[0]


def assign_to_medoids(d: jax.Array, medoids: jax.Array) -> jax.Array:
    """Index of the nearest medoid for each point: d `[..., N, N]`, medoids `[..., K]` -> `[..., N]` int32."""
    own = medoids[..., :, None] == jnp.arange(d.shape[-1])
    return _first_argmin(_rows(d, medoids) - own, axis=-2)


def update_medoids(d: jax.Array, assign: jax.Array, k: int) -> jax.Array:
    """The member of least summed distance to its cluster: d `[..., N, N]`, assign `[..., N]` -> `[..., K]` int32.

    Σ over the own cluster only needs one masked row sum a point, `N²` additions that fuse with the comparison;
    no `[K, N, N]` tensor and no `[N, N] @ [N, K]` product.
    """
    cost = jnp.where(assign[..., :, None] == assign[..., None, :], d, 0.0).sum(-1)
    members = assign[..., None, :] == jnp.arange(k)[:, None]
    return _first_argmin(jnp.where(members, cost[..., None, :], jnp.inf), axis=-1)


def kmedoids(
    x: jax.Array,
    k: int,
    *,
    metric: str = "l2",
    pre_norm: bool = False,
    max_iters: int = 100,
    fixed_iters: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> KMedoids:
    """k-medoids++ of points `[..., N, W]`, each leading index on its own. No gradient flows through it.

    Args:
        k: number of clusters, 1 <= k <= N.
        metric: 'l2' | 'l1' | 'cosine'. pre_norm: cluster `x/(‖x‖+1e-6)`; the first seed still has the largest
            norm of the raw points.
        max_iters: bound of the loop that ends when no medoid moves.
        fixed_iters: if given, exactly so many passes instead (passes at a fixed point change nothing). Use it
            when the leading axes are sharded over devices: the condition of the `while` loop over a sharded
            batch costs one all-reduce a pass. 10 is ample.
        max_bytes: distance matrices are made in chunks of at most this size on each device, so that the number of
            turns hangs on the sets a device has and not on how many devices there are.
    Raises InputError on k out of range.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    _check_k(k, x.shape[-2])

    def cluster(points):
        score = (points * points).sum(-1)
        d = pairwise_distances(unit_rows(points) if pre_norm else points, metric)
        return _kmedoids_from_distances(d, score, k, max_iters, fixed_iters)

    return _chunked(cluster, x, max_bytes)


def spectral_kmedoids(
    x: jax.Array,
    k: int,
    *,
    sigma: float | str = 2.0,
    graph: str = "heat",
    knn_k: int = 5,
    mutual: bool = False,
    mask: jax.Array | None = None,
    max_iters: int = 100,
    fixed_iters: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> SpectralKMedoids:
    """Spectral clustering of `[..., N, W]` whose last step is k-medoids++ on the embedding (CenterCLIP section 3.3).

    Heat-kernel affinity, normalised Laplacian, eigenvectors of the k smallest eigenvalues, unit rows, k-medoids.
    The first seed is the row of largest norm before normalisation. No gradient flows through it.

    Args: those of `graph_affinity`; k, max_iters, fixed_iters, max_bytes as in `kmedoids`.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    _check_k(k, x.shape[-2])

    def cluster(points):
        affinity = graph_affinity(points, sigma=sigma, graph=graph, knn_k=knn_k, mutual=mutual, mask=mask)
        _, vectors = jnp.linalg.eigh(normalized_laplacian(affinity), symmetrize_input=False)
        q = _rows(vectors[..., :k], first_equal(points))  # equal points lie together, also after rounding
        result = _kmedoids_from_distances(pairwise_distances(unit_rows(q)), (q * q).sum(-1), k, max_iters, fixed_iters)
        return SpectralKMedoids(*result, affinity.sum(-1).mean(-1))

    return _chunked(cluster, x, max_bytes)


def graph_affinity(
    x: jax.Array,
    *,
    sigma: float | str = 2.0,
    graph: str = "heat",
    knn_k: int = 5,
    mutual: bool = False,
    mask: jax.Array | None = None,
) -> jax.Array:
    """`W_ij = exp(−‖x_i − x_j‖² / 2σ²)`, `[..., N, N]` of points `[..., N, W]`; diagonal 1.

    Args:
        sigma: number, or 'median' for the median distance between different points of each set.
        graph: 'heat' keeps all pairs; 'knn' keeps a pair if it is among the knn_k largest of row i or of
            column j, the point itself counted (`mutual`: and).
        mask: `[N, N]` bool; False pairs are cut, see `neighbourhood_mask`.
    """
    if graph not in GRAPHS:
        raise InputError(f"graph: {graph!r} is unknown; use one of {GRAPHS}")
    if isinstance(sigma, str) and sigma != "median":
        raise InputError(f"sigma: {sigma!r} is neither a number nor 'median'")
    squared, n = squared_distances(x), x.shape[-2]
    if sigma == "median":
        i, j = np.triu_indices(n, 1)
        middle = jnp.median(squared[..., i, j], axis=-1) if n > 1 else jnp.ones(squared.shape[:-2])
        denominator = 2 * jnp.maximum(middle, NORM_EPS**2)[..., None, None]
    else:
        denominator = 2.0 * float(sigma) ** 2
    affinity = jnp.exp(-squared / denominator)
    if graph == "knn":
        if not 1 <= knn_k <= n:
            raise InputError(f"knn_k: {knn_k} is not between 1 and the number of points {n}")
        threshold = jax.lax.top_k(affinity, knn_k)[0][..., -1]
        row, column = affinity >= threshold[..., :, None], affinity >= threshold[..., None, :]
        affinity = jnp.where(row & column if mutual else row | column, affinity, 0.0)
    if mask is not None:
        affinity = jnp.where(mask, affinity, 0.0)
    return affinity


def normalized_laplacian(affinity: jax.Array) -> jax.Array:
    """`D^-½ (D − W) D^-½`, `[..., N, N]`, exactly symmetric; eigenvalues in [0, 2], one 0 a connected component."""
    scale = jax.lax.rsqrt(affinity.sum(-1))
    laplacian = jnp.eye(affinity.shape[-1]) - affinity * scale[..., :, None] * scale[..., None, :]
    return 0.5 * (laplacian + jnp.swapaxes(laplacian, -1, -2))


def neighbourhood_mask(frames: int, grid: int, t_kernel: int = 7, s_kernel: int = 9) -> np.ndarray:
    """`[N, N]` bool, N = frames·grid², frame-major: True where two tokens are at most `t_kernel // 2` frames and
    `s_kernel // 2` cells in x and in y apart."""
    t, y, x = np.unravel_index(np.arange(frames * grid * grid), (frames, grid, grid))

    def near(v, kernel):
        return np.abs(v[:, None] - v[None, :]) <= kernel // 2

    return near(t, t_kernel) & near(y, s_kernel) & near(x, s_kernel)


def _kmedoids_from_distances(d, score, k: int, max_iters: int, fixed_iters: int | None) -> KMedoids:
    """The loop of `kmedoids` on distances `[..., N, N]`; all sets of the batch advance together."""

    def step(state):
        medoids, moved, passes = state
        new = update_medoids(d, assign_to_medoids(d, medoids), k)
        return new, jnp.any(new != medoids, -1), passes + moved

    medoids = kkz_init(d, score, k)
    state = (medoids, jnp.ones(medoids.shape[:-1], bool), jnp.zeros(medoids.shape[:-1], jnp.int32))
    if fixed_iters is not None:
        state = jax.lax.fori_loop(0, fixed_iters, lambda _, s: step(s), state)
    else:
        # every set makes pass n in the same turn, so the highest count is the number of turns
        state = jax.lax.while_loop(lambda s: jnp.any(s[1]) & (jnp.max(s[2]) < max_iters), step, state)
    medoids = jnp.sort(state[0], axis=-1)
    return KMedoids(medoids, assign_to_medoids(d, medoids), state[2])


def _chunked(function: Callable, x: jax.Array, max_bytes: int):
    """`function` over all leading axes of `[..., N, W]`, at most `max_bytes` of `[N, N]` float32 a device at a time.

    A chunk takes every c-th set, not a run of neighbours: if the leading axis is sharded over devices, each chunk
    then holds an equal part of every device's sets and nothing moves between devices.
    """
    lead, n = x.shape[:-2], x.shape[-2]
    sets, devices = math.prod(lead), sharding.batch_devices()
    own = sets // devices if sets % devices == 0 else sets  # of a device
    needed = max(1, math.ceil(own * n * n * 4 / max_bytes))
    if needed == 1 or own <= 1:
        return function(x)
    chunks = next(c for c in range(min(needed, own), own + 1) if own % c == 0)
    y = x.reshape(sets // chunks, chunks, *x.shape[-2:]).swapaxes(0, 1)
    out = jax.lax.map(function, y)
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(*lead, *a.shape[2:]), out)


def _gram(x: jax.Array) -> jax.Array:
    return jnp.einsum("...id,...jd->...ij", x, x, precision=HIGHEST)


def _rows(d: jax.Array, index: jax.Array) -> jax.Array:
    """Rows `index [..., K]` of d `[..., N, N]` -> `[..., K, N]`."""
    return jnp.take_along_axis(d, index[..., None], axis=-2)


def _first_argmin(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.argmin` as int32, lowest index on ties, as two plain reductions.

    XLA lowers `argmin` to one reduction over (value, index) pairs, which its CPU backend does not vectorise: 4 to 8
    times slower at `[96, 49, 98]`. NaN give an index in range, not that of the NaN.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis % x.ndim)
    last = x.shape[axis] - 1
    return jnp.where(x == x.min(axis, keepdims=True), index, last).min(axis)


def _canonical(d: jax.Array, first: jax.Array) -> jax.Array:
    """d `[..., N, N]` made symmetric, with rows and columns of equal points (`first_equal`) the same, exactly 0 between
    them."""
    d = 0.5 * (d + jnp.swapaxes(d, -1, -2))
    d = _rows(jnp.swapaxes(_rows(d, first), -1, -2), first)
    return jnp.where(first[..., :, None] == first[..., None, :], 0.0, d)


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise InputError(f"clusters: {k} centers asked of {n} tokens; choose between 1 and {n}")
