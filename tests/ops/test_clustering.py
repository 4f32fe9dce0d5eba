from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from jaxvl.core import sharding
from jaxvl.core.errors import InputError
from jaxvl.ops import clustering as C

OPTIONS = ("metric", "pre_norm", "max_iters", "fixed_iters", "max_bytes")
kmedoids = jax.jit(C.kmedoids, static_argnums=1, static_argnames=OPTIONS)
spectral_kmedoids = jax.jit(C.spectral_kmedoids, static_argnums=1, static_argnames=("sigma", "graph"))
pairwise_distances = jax.jit(C.pairwise_distances, static_argnums=1)
graph_affinity = jax.jit(C.graph_affinity, static_argnames=("sigma", "graph", "knn_k", "mutual"))


def numpy_distances(x, metric):
    x = np.asarray(x, np.float64)
    if metric == "cosine":
        u = x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)
        d = 1 - u @ u.T
    else:
        d = cdist(x, x, {"l2": "euclidean", "l1": "cityblock"}[metric])
    np.fill_diagonal(d, 0)
    return d


def numpy_kmedoids(d, score, k, max_iters=100):
    """Plain loops over python lists, from the paper's description; no shared code."""
    n = len(d)
    lowered = d - np.eye(n)
    medoids = [int(np.argmax(score))]
    while len(medoids) < k:
        medoids.append(int(np.argmax(lowered[medoids].min(0))))
    objective = []
    passes = 0
    while passes < max_iters:
        passes += 1
        assign = [int(np.argmin([lowered[m, i] for m in medoids])) for i in range(n)]
        objective.append(sum(d[medoids[a], i] for i, a in enumerate(assign)))
        new = []
        for c in range(k):
            members = [i for i in range(n) if assign[i] == c]
            new.append(members[int(np.argmin([d[i, members].sum() for i in members]))])
        if new == medoids:
            break
        medoids = new
    medoids = sorted(medoids)
    return medoids, [int(np.argmin([lowered[m, i] for m in medoids])) for i in range(n)], passes, objective


def points(*values):
    return jnp.asarray(values, jnp.float32)[:, None]


@pytest.mark.parametrize("fixed", [None, 10])
def test_two_groups_on_a_line(fixed):
    x = points(0, 1, 2, 10, 11, 12)
    d = pairwise_distances(x)
    np.testing.assert_array_equal(C.kkz_init(d, (x * x).sum(-1), 2), [5, 0])
    np.testing.assert_array_equal(C.assign_to_medoids(d, jnp.array([5, 0])), [1, 1, 1, 0, 0, 0])
    result = kmedoids(x, 2, fixed_iters=fixed)
    np.testing.assert_array_equal(result.medoids, [1, 4])
    np.testing.assert_array_equal(result.assign, [0, 0, 0, 1, 1, 1])
    assert int(result.iterations) == 2
    assert result.medoids.dtype == result.assign.dtype == jnp.int32


@pytest.mark.parametrize(("values", "seeds", "medoids"), [((0, 3, 10), (2, 0), (0, 2)), ((3, 0, 10), (2, 1), (0, 2))])
def test_cluster_of_two_goes_to_the_lower_index(values, seeds, medoids):
    x = points(*values)
    np.testing.assert_array_equal(C.kkz_init(pairwise_distances(x), (x * x).sum(-1), 2), seeds)
    result = kmedoids(x, 2)
    np.testing.assert_array_equal(result.medoids, medoids)
    np.testing.assert_array_equal(result.assign, [0, 0, 1])


def test_every_cluster_of_two_keeps_its_earlier_member():
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.normal(size=(20, 64)) * 10, 2, axis=0)
    x = (pairs + rng.normal(size=pairs.shape) * 0.1 + 50).astype(np.float32)
    np.testing.assert_array_equal(kmedoids(x, 20).medoids, np.arange(0, 40, 2))


def test_duplicates_give_distinct_medoids():
    x = np.repeat(np.random.default_rng(1).normal(size=(4, 3)), 5, axis=0).astype(np.float32)
    result = kmedoids(x, 6)
    assert len(set(np.asarray(result.medoids).tolist())) == 6
    np.testing.assert_array_equal(np.asarray(result.assign)[np.asarray(result.medoids)], np.arange(6))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_all_tokens_equal(value):
    result = kmedoids(jnp.full((7, 4), value), 3)
    assert len(set(np.asarray(result.medoids).tolist())) == 3


def test_extreme_k():
    x = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    everything, one = kmedoids(x, 9), kmedoids(x, 1)
    np.testing.assert_array_equal(everything.medoids, np.arange(9))
    np.testing.assert_array_equal(everything.assign, np.arange(9))
    np.testing.assert_array_equal(one.medoids, [numpy_distances(x, "l2").sum(1).argmin()])
    np.testing.assert_array_equal(one.assign, np.zeros(9))
    for k in (0, 10):
        with pytest.raises(InputError, match="between 1 and 9"):
            kmedoids(x, k)


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_distances_agree_with_float64(metric):
    x = np.random.default_rng(3).normal(size=(2, 30, 16)).astype(np.float32) + 20
    d = np.asarray(pairwise_distances(x, metric))
    np.testing.assert_array_equal(d, d.swapaxes(-1, -2))
    np.testing.assert_array_equal(np.diagonal(d, axis1=-2, axis2=-1), 0)
    assert (d >= 0).all()
    for i in range(2):
        np.testing.assert_allclose(d[i], numpy_distances(x[i], metric), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="unknown"):
        pairwise_distances(x, "l3")


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_agrees_with_plain_loops(metric, pre_norm):
    x = np.random.default_rng(4).normal(size=(3, 40, 5)).astype(np.float32)
    result = kmedoids(x, 9, metric=metric, pre_norm=pre_norm)
    for i in range(3):
        y = x[i] / (np.linalg.norm(x[i], axis=-1, keepdims=True) + 1e-6) if pre_norm else x[i]
        medoids, assign, passes, objective = numpy_kmedoids(
            numpy_distances(y, metric), np.linalg.norm(x[i], axis=-1), 9
        )
        np.testing.assert_array_equal(result.medoids[i], medoids)
        np.testing.assert_array_equal(result.assign[i], assign)
        assert int(result.iterations[i]) == passes
        assert all(a >= b - 1e-9 for a, b in itertools.pairwise(objective))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 5, 8, 12]))
def test_small_integer_points_agree_with_plain_loops(seed, k):
    # a centred grid: float32 is exact for l1, so ties and duplicates, which abound here, must be broken alike
    x = np.random.default_rng(seed).integers(-2, 3, (12, 2)).astype(np.float32)
    result = kmedoids(x, k, metric="l1")
    medoids, assign, passes, _ = numpy_kmedoids(numpy_distances(x, "l1"), (x * x).sum(-1), k)
    np.testing.assert_array_equal(result.medoids, medoids)
    np.testing.assert_array_equal(result.assign, assign)
    assert int(result.iterations) == passes


def test_update_equals_the_matmul_form():
    rng = np.random.default_rng(5)
    d = np.asarray(pairwise_distances(rng.normal(size=(50, 8))))
    assign = rng.permutation(np.arange(50) % 7)
    member = assign[:, None] == np.arange(7)
    expected = np.where(member, d.astype(np.float64) @ member, np.inf).argmin(0)
    np.testing.assert_array_equal(C.update_medoids(d, jnp.asarray(assign), 7), expected)


@pytest.mark.parametrize("axis", [-1, -2])
def test_nearest_is_argmin_with_ties_infinities_and_nan(axis):
    x = np.random.default_rng(13).integers(0, 3, (5, 6, 7)).astype(np.float32)
    x[0], x[1] = np.inf, -np.inf
    np.testing.assert_array_equal(C._first_argmin(jnp.asarray(x), axis), x.argmin(axis))
    x[2, 0, 0] = np.nan
    found = np.asarray(C._first_argmin(jnp.asarray(x), axis))
    assert (found >= 0).all()
    assert (found < x.shape[axis]).all()


def test_invariances():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    x[11] *= 30  # stays the first seed under the shift below
    base = np.asarray(kmedoids(x, 8).medoids)
    np.testing.assert_array_equal(kmedoids(x + np.float32(0.25), 8).medoids, base)
    np.testing.assert_array_equal(kmedoids(x * 8, 8).medoids, base)
    order = np.arange(40)  # permute without exchanging the members of a pair: no ties there
    order[[2, 30]] = order[[30, 2]]
    sizes = np.bincount(np.asarray(kmedoids(x, 3).assign))
    assert (sizes != 2).all()
    permuted = order[np.asarray(kmedoids(x[order], 3).medoids)]
    np.testing.assert_array_equal(np.sort(permuted), kmedoids(x, 3).medoids)


@pytest.mark.parametrize("fixed", [None, 6])
def test_batch_equals_each_item_and_chunks_change_nothing(fixed):
    x = np.random.default_rng(7).normal(size=(3, 4, 20, 5)).astype(np.float32)
    whole = kmedoids(x, 6, fixed_iters=fixed)
    for max_bytes in (20 * 20 * 4, 5 * 20 * 20 * 4):
        chunked = kmedoids(x, 6, fixed_iters=fixed, max_bytes=max_bytes)
        jax.tree.map(np.testing.assert_array_equal, whole, chunked)
    for i in range(3):
        alone = kmedoids(x[i, 1], 6)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda a, i=i: a[i, 1], whole), alone)


def test_chunks_bound_the_distance_matrices():
    text = jax.jit(lambda x: kmedoids(x, 4, max_bytes=2 * 64 * 64 * 4)).lower(jnp.zeros((8, 64, 3))).as_text()
    assert "2x64x64xf32" in text
    assert "8x64x64xf32" not in text


def test_turns_hang_on_what_a_device_has_not_on_the_number_of_devices():
    """32 sets a device, of which 8 fit: four turns on 4 devices and on 128. No mesh is needed to trace for one."""
    turns = {}
    for devices in (1, 4, 128):
        mesh = jax.sharding.AbstractMesh((devices, 1, 1), sharding.AXES)
        x = jax.ShapeDtypeStruct((8 * devices, 4, 20, 3), jnp.float32)

        def cluster(x, mesh=mesh):
            with jax.sharding.use_abstract_mesh(mesh):
                return C.kmedoids(x, 4, fixed_iters=2, max_bytes=8 * 20 * 20 * 4)

        scans = [e for e in jax.make_jaxpr(cluster)(x).eqns if e.primitive.name == "scan"]
        turns[devices] = [(e.params["length"], e.invars[-1].aval.shape[1]) for e in scans]
    assert turns == {n: [(4, 8 * n)] for n in turns}


@pytest.mark.parametrize(("n", "k"), [(147, 49), (588, 160)])
def test_gaussian_data_reaches_the_fixed_point_quickly(n, k):
    x = np.random.default_rng(8).normal(size=(2, n, 64)).astype(np.float32)
    assert int(kmedoids(x, k).iterations.max()) <= 8


def test_max_iters_bounds_the_loop():
    x = np.random.default_rng(9).normal(size=(60, 2)).astype(np.float32)
    assert int(kmedoids(x, 5).iterations) > 2
    assert int(kmedoids(x, 5, max_iters=2).iterations) == 2


def test_no_gradient_and_no_error_under_reverse_mode():
    x = jnp.asarray(np.random.default_rng(10).normal(size=(12, 3)), jnp.float32)

    def f(x):
        return jnp.take_along_axis(x, kmedoids(x, 4).medoids[:, None], 0).sum()

    gradient = np.asarray(jax.jit(jax.grad(f))(x))
    chosen = np.zeros(12, bool)
    chosen[np.asarray(kmedoids(x, 4).medoids)] = True
    np.testing.assert_array_equal(gradient, np.broadcast_to(chosen[:, None], (12, 3)))


def blobs(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(24, 4)).astype(np.float32) * 0.3
    x[12:] += 40
    return x[rng.permutation(24)]


def test_spectral_splits_two_far_blobs():
    x = blobs()
    result = spectral_kmedoids(x, 2, sigma=1.0)
    truth = x[:, 0] > 20
    assign = np.asarray(result.assign).astype(bool)
    assert (assign == truth).all() or (assign == ~truth).all()
    assert float(result.mean_degree) > 5


def test_laplacian_spectrum_counts_components():
    x = blobs()
    affinity = graph_affinity(x, sigma=1.0)
    np.testing.assert_array_equal(np.diagonal(affinity), 1)
    laplacian = np.asarray(C.normalized_laplacian(affinity))
    np.testing.assert_array_equal(laplacian, laplacian.T)
    values = np.linalg.eigvalsh(laplacian.astype(np.float64))
    assert values.min() > -1e-5
    assert values.max() < 2
    assert (np.abs(values) < 1e-5).sum() == 2


def test_spectral_embedding_ignores_eigenvector_signs(monkeypatch):
    x = np.random.default_rng(11).normal(size=(20, 3)).astype(np.float32)
    plain = spectral_kmedoids(x, 5, sigma="median")
    eigh = jnp.linalg.eigh
    signs = jnp.where(jnp.arange(20) % 2, 1.0, -1.0)
    monkeypatch.setattr(jnp.linalg, "eigh", lambda *a, **k: (lambda v: (v[0], v[1] * signs))(eigh(*a, **k)))
    flipped = jax.jit(lambda x: C.spectral_kmedoids(x, 5, sigma="median"))(x)
    np.testing.assert_array_equal(plain.medoids, flipped.medoids)


def test_sigma_too_small_is_visible_in_the_degree():
    x = np.random.default_rng(12).normal(size=(10, 3)).astype(np.float32) * 100
    assert float(spectral_kmedoids(x, 3).mean_degree) == pytest.approx(1, abs=1e-3)
    assert float(spectral_kmedoids(x, 3, sigma="median").mean_degree) > 3


def test_median_sigma_by_hand():
    # distances 3, 10, 7 -> median 7
    affinity = graph_affinity(points(0, 3, 10), sigma="median")
    np.testing.assert_allclose(affinity[0, 1], np.exp(-9 / 98), rtol=1e-5)


def test_knn_graph_by_hand():
    x = points(0, 1, 3, 7)  # with k = 2 each point keeps its nearest neighbour: 0-1, 1-0, 2-1, 3-2
    kept = np.asarray(graph_affinity(x, sigma=5.0, graph="knn", knn_k=2)) > 0
    expected = np.eye(4, dtype=bool)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        expected[i, j] = expected[j, i] = True
    np.testing.assert_array_equal(kept, expected)
    mutual = np.asarray(graph_affinity(x, sigma=5.0, graph="knn", knn_k=2, mutual=True)) > 0
    only = np.eye(4, dtype=bool)
    only[0, 1] = only[1, 0] = True
    np.testing.assert_array_equal(mutual, only)
    with pytest.raises(InputError, match="knn_k"):
        graph_affinity(x, graph="knn", knn_k=5)


def test_neighbourhood_mask():
    mask = C.neighbourhood_mask(9, 3, t_kernel=7, s_kernel=3)
    assert mask.shape == (81, 81)

    def token(t, y, x):
        return t * 9 + y * 3 + x

    assert mask[token(0, 0, 0), token(3, 1, 1)]
    assert not mask[token(0, 0, 0), token(4, 0, 0)]
    assert not mask[token(0, 0, 0), token(0, 0, 2)]
    assert not mask[token(0, 0, 0), token(0, 2, 0)]
    affinity = np.asarray(graph_affinity(np.zeros((81, 2), np.float32), mask=mask))
    np.testing.assert_array_equal(affinity, mask.astype(np.float32))


@pytest.mark.parametrize("bad", [{"graph": "tree"}, {"sigma": "mean"}])
def test_spectral_input_errors(bad):
    with pytest.raises(InputError):
        spectral_kmedoids(blobs(), 2, **bad)


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_equal_points_have_distance_zero_and_the_same_distances_to_all_others(metric):
    rng = np.random.default_rng(0)
    points = rng.standard_normal((5, 21, 96)).astype(np.float32) + 20 * rng.standard_normal(96).astype(np.float32)
    copies = np.concatenate([points, points[:, ::2], points[:, :3]], axis=1)
    copies[0, 1, 0], copies[0, 2] = 0.0, copies[0, 1]
    copies[0, 2, 0] = -0.0
    d = np.asarray(jax.jit(lambda x: pairwise_distances(x, metric))(copies))
    equal = (copies[:, :, None] == copies[:, None]).all(-1)
    assert (d[equal] == 0).all()
    assert (d[~equal] > 0).all()
    for i, j in np.argwhere(equal[0]):
        np.testing.assert_array_equal(d[0, i], d[0, j])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_points_are_equal_bit_for_bit_and_no_others(dtype):
    x = jnp.asarray(np.random.default_rng(1).integers(-2, 3, (400, 4)) * 0.5, dtype)
    got = np.asarray(jax.jit(C.first_equal)(x))
    rows = [tuple(row) for row in np.asarray(x, np.float32).tolist()]
    assert got.tolist() == [rows.index(row) for row in rows]


def test_medoids_of_repeated_frames_do_not_depend_on_the_batch():
    rng = np.random.default_rng(2)
    frame = rng.standard_normal((6, 30, 64)).astype(np.float32) + 9
    sets = np.concatenate([frame, frame, frame], axis=1)
    run = jax.jit(lambda x: kmedoids(x, 12))
    whole = run(sets)
    assert (np.asarray(whole.medoids) < 30).all()  # the first of equal points
    for i in range(6):
        for batch in (sets[i : i + 1], sets[[5, i, 0]]):
            place = 0 if len(batch) == 1 else 1
            np.testing.assert_array_equal(run(batch).medoids[place], whole.medoids[i])
            np.testing.assert_array_equal(run(batch).assign[place], whole.assign[i])
