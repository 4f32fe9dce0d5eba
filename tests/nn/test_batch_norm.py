from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import hlo, hlo_counts, sharding
from jaxvl.core.errors import InputError
from jaxvl.nn.batch_norm import BatchNorm, normalize, normalize_runs


def call(x, train, variables, **fields):
    module = BatchNorm(**fields)
    variables = variables or module.init(jax.random.key(0), x, train)
    y, mutated = module.apply(variables, x, train, mutable=["batch_stats"])
    return y, mutated["batch_stats"], variables


@functools.partial(jax.jit, static_argnums=(2, 3))
def compiled(x, variables, train, fields):
    return call(x, train, variables, **dict(fields))


def run(x, train=True, variables=None, **fields):
    return jax.device_get(compiled(x, variables, train, tuple(fields.items())))


def random(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(2, 3, shape).astype(dtype)


def test_running_variance_is_the_unbiased_one():
    _, stats, _ = run(np.arange(4, dtype=np.float32)[:, None])
    np.testing.assert_allclose(stats["mean"], [0.15], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [0.9 + 0.1 * 5 / 3], rtol=1e-6)  # the biased one gives 1.025


def test_a_batch_is_normalised_to_mean_zero_and_variance_one():
    y, _, _ = run(random((8, 5, 3)))
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1)), 1, atol=1e-4)


def test_values_far_from_zero_keep_their_digits():
    x = random((64, 4), seed=1) * 1e-2 + 300
    y, _, _ = run(x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=1e-2)


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    x = random((8, 3))
    _, stats, variables = run(x)
    trained = {"params": variables["params"], "batch_stats": stats}
    y, after, _ = run(x, train=False, variables=trained)
    np.testing.assert_allclose(y, (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, stats)


def test_initialisation_does_not_count_as_a_batch():
    variables = jax.jit(lambda x: BatchNorm().init(jax.random.key(0), x, True))(random((8, 3)))
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)


def test_groups_equal_separate_calls():
    x = random((12, 5, 3))
    y, stats, variables = run(x, groups=3)
    parts = [run(part, variables=variables) for part in np.split(x, 3)]
    np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], np.mean([p[1][name] for p in parts], 0), atol=1e-6)
    whole, _, _ = run(x, variables=variables)
    assert np.abs(whole - y).max() > 1e-2


def test_groups_must_divide_the_batch():
    with pytest.raises(InputError, match="batch of 8: cannot be cut into 3 groups"):
        run(random((8, 3)), groups=3)


def test_frozen_equals_evaluation_and_has_no_parameters():
    x = random((8, 4, 3))
    frozen = run(x, frozen=True)[2]
    assert "params" not in frozen
    stats = {k: random((3,), seed=i) for i, k in enumerate(("mean", "scale", "bias"))}
    stats["var"] = np.float32([0.5, 1, 2])
    y, after, _ = run(x, frozen=True, variables={"batch_stats": stats})
    plain = {
        "params": {"scale": stats["scale"], "bias": stats["bias"]},
        "batch_stats": {"mean": stats["mean"], "var": stats["var"]},
    }
    np.testing.assert_allclose(y, run(x, train=False, variables=plain)[0], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, stats)


def test_without_scale_and_bias():
    x = random((8, 3))
    y, _, variables = run(x, affine=False)
    assert "params" not in variables
    np.testing.assert_allclose(y, run(x)[0], atol=1e-6)


def test_gradient_is_that_of_the_written_out_formula():
    x, scale, bias = random((2, 6, 3)), random((3,), 1), random((3,), 2)
    weight = random((2, 6, 3), 3)

    def plain(x, scale, bias):
        mean = x.mean(1, keepdims=True)
        var = ((x - mean) ** 2).mean(1, keepdims=True)
        return (weight * jnp.sin((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias)).sum()

    ours = lambda *a: (weight * jnp.sin(normalize(*a, 1e-5)[0])).sum()  # noqa: E731
    both = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(x, scale, bias) for f in (ours, plain))
    (value, slopes), (exact, expected) = both
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    for a, b in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_in_and_out_with_float32_statistics():
    x = random((64, 8, 3), dtype=jnp.bfloat16)
    y, stats, _ = run(x, dtype=jnp.bfloat16)
    assert (y.dtype, stats["var"].dtype) == (jnp.bfloat16, jnp.float32)
    exact = run(x.astype(np.float32))
    np.testing.assert_allclose(y.astype(np.float32), exact[0], atol=2e-2)
    np.testing.assert_allclose(stats["var"], exact[1]["var"], rtol=1e-5)


def test_equal_rows_passed_once_count_as_often_as_they_stand_in_the_batch():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    y, stats, _ = run(x, repeats=4)
    tiled, expected, _ = run(np.tile(x, (4, 1)))
    np.testing.assert_allclose(np.tile(y, (4, 1)), tiled, atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], expected[name], rtol=1e-6)


def masked(x, mask, **fields):
    module = BatchNorm(**fields)

    def call(x, mask):
        variables = module.init(jax.random.key(0), x, True, mask)
        return variables, module.apply(variables, x, True, mask, mutable=["batch_stats"])

    return module, *jax.device_get(jax.jit(call)(x, mask))


def test_statistics_of_some_rows_are_flax_s():
    import flax.linen as nn

    x, mask = random((6, 4, 5, 3), seed=3), np.array([1, 0, 1, 1, 0, 1], bool)
    module, variables, (y, changed) = masked(x, mask, unbiased=False)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    where = mask[:, None, None, None]
    start = jax.jit(theirs.init)(jax.random.key(0), x)

    def run(params, x, ours):
        if ours:
            return module.apply({**variables, "params": params}, x, True, mask, mutable=["batch_stats"])
        return theirs.apply({**start, "params": params}, x, mask=where, mutable=["batch_stats"])

    params = {"scale": np.float32([1.5, 0.5, -1.0]), "bias": np.float32([0.1, 0.2, 0.3])}

    def value(params, x, ours):
        out, stats = run(params, x, ours)
        return jnp.sin(out).sum(), (out, stats)

    gradient = jax.jit(jax.grad(value, (0, 1), has_aux=True), static_argnums=2)
    (slopes, (out, _)), (expected, (wanted, stats)) = (gradient(params, x, ours) for ours in (True, False))
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(changed["batch_stats"][name], stats["batch_stats"][name], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-5)  # values up to 100 in float32
    np.testing.assert_allclose(y[mask].mean((0, 1, 2)), 0, atol=1e-6)


def test_rows_that_do_not_count_change_nothing():
    x, mask = random((6, 7, 3), seed=4), np.array([1, 1, 0, 1, 0, 1], bool)
    _, _, (y, changed) = masked(x, mask)
    _, _, (other, same) = masked(np.where(mask[:, None, None], x, np.float32(1e3)), mask)
    kept, stats, _ = run(x[mask])
    np.testing.assert_allclose(y[mask], kept, atol=1e-5)
    np.testing.assert_array_equal(other[mask], y[mask])
    for name in ("mean", "var"):
        np.testing.assert_allclose(changed["batch_stats"][name], stats[name], rtol=1e-5)  # unbiased, of 28 values
        np.testing.assert_array_equal(changed["batch_stats"][name], same["batch_stats"][name])


def test_a_mask_and_groups_are_refused():
    with pytest.raises(InputError, match="takes no mask"):
        masked(random((4, 3)), np.ones(4, bool), groups=2)


RUNS = (7, 1, 5, 3)


def in_turn(x, runs, variables, **fields):
    """Each run by itself, with the running statistics that the one before it left."""
    out, stats = [], variables["batch_stats"]
    for part in jnp.split(x, np.cumsum(runs)[:-1]):
        y, stats, _ = call(part, True, {**variables, "batch_stats": stats}, **fields)
        out.append(y)
    return jnp.concatenate(out), stats


@pytest.mark.parametrize("fields", [{}, {"repeats": 3}, {"unbiased": False, "momentum": 0.5}], ids=str)
def test_runs_equal_passes_one_after_another(fields):
    x = random((16, 5, 2, 3), seed=5)
    y, stats, variables = run(x, runs=RUNS, **fields)
    expected, after = jax.jit(lambda x, v: in_turn(x, RUNS, v, **fields))(x, variables)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], after[name], rtol=1e-6)
    swapped = run(np.concatenate([x[7:], x[:7]]), runs=(1, 5, 3, 7), **fields)[1]
    assert np.abs(swapped["mean"] - stats["mean"]).max() > 1e-3  # the last pass has the most to say


def test_runs_are_normalised_by_their_own_mean_and_variance():
    x = random((16, 6, 3), seed=6) * 1e-2 + 300 * np.repeat(np.arange(4, dtype=np.float32), RUNS)[:, None, None]
    scale, bias = random((3,), 1), random((3,), 2)
    y, mean, var = jax.device_get(jax.jit(lambda *a: normalize_runs(*a, RUNS, 1e-5))(x, scale, bias))
    for i, part in enumerate(np.split(np.asarray(x, np.float64), np.cumsum(RUNS)[:-1])):
        where = slice(sum(RUNS[:i]), sum(RUNS[: i + 1]))
        np.testing.assert_allclose(mean[i], part.mean((0, 1)), rtol=1e-6)
        np.testing.assert_allclose(var[i], part.var((0, 1)), rtol=1e-3)
        exact = (part - part.mean((0, 1))) / np.sqrt(part.var((0, 1)) + 1e-5) * scale + bias
        np.testing.assert_allclose(y[where], exact, atol=0.1)


def plain_runs(x, scale, bias, runs):
    out = []
    for part in jnp.split(x, np.cumsum(runs)[:-1]):
        mean = part.mean((0, 1))
        var = ((part - mean) ** 2).mean((0, 1))
        out.append((part - mean) / jnp.sqrt(var + 1e-5) * scale + bias)
    return jnp.concatenate(out)


def test_gradient_of_runs_is_that_of_the_written_out_formula():
    x, scale, bias, weight = random((16, 6, 3)), random((3,), 1), random((3,), 2), random((16, 6, 3), 3)
    plain = lambda *a: (weight * jnp.sin(plain_runs(*a, RUNS))).sum()  # noqa: E731
    ours = lambda *a: (weight * jnp.sin(normalize_runs(*a, RUNS, 1e-5)[0])).sum()  # noqa: E731
    both = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(x, scale, bias) for f in (ours, plain))
    (value, slopes), (exact, expected) = both
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    for a, b in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_runs_on_eight_devices_are_those_on_one_and_no_row_moves():
    x = random((16, 6, 3), seed=7)
    variables = run(x, runs=RUNS)[2]

    def value(params, x):
        y, changed = BatchNorm(runs=RUNS).apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.sin(y).sum(), (y, changed)

    gradient = jax.value_and_grad(value, (0, 1), has_aux=True)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    where, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    out = ((where, (rows, where)), (where, rows))
    spread = jax.jit(gradient, in_shardings=(where, rows), out_shardings=out)
    one, eight = jax.jit(gradient)(variables["params"], x), spread(variables["params"], x)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    program = hlo.parse(spread.lower(variables["params"], x).compile().as_text())
    exchanged = hlo_counts.collectives(program, mesh.shape)
    assert {c.kind for c in exchanged} == {"all-reduce"}
    numbers = sum(c.size * c.run.times for c in exchanged) / 4
    assert numbers <= 4 * len(RUNS) * 3 + 2 * 3 + 1  # four sums of each run, two of the whole batch, and the value


def test_runs_keep_the_dtype_and_float32_statistics():
    x = random((16, 8, 3), dtype=jnp.bfloat16)
    y, stats, variables = run(x, runs=RUNS, dtype=jnp.bfloat16)
    assert (y.dtype, stats["var"].dtype) == (jnp.bfloat16, jnp.float32)
    exact = run(x.astype(np.float32), runs=RUNS)
    np.testing.assert_allclose(y.astype(np.float32), exact[0], atol=2e-2)
    np.testing.assert_allclose(stats["var"], exact[1]["var"], rtol=1e-5)
    value = lambda x: call(x, True, variables, runs=RUNS, dtype=jnp.bfloat16)[0].astype(jnp.float32).sum()  # noqa: E731
    assert jax.jit(jax.grad(value))(x).dtype == jnp.bfloat16


def test_evaluation_knows_no_runs():
    x = random((5, 3))
    expected, _, variables = run(x, False)
    np.testing.assert_array_equal(run(x, False, variables, runs=RUNS)[0], expected)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda x: run(x, runs=(3, 4)), "batch of 8: is not runs of 3, 4 rows for batch normalisation"),
        (lambda x: run(x, runs=(9, -1)), "batch of 8: is not runs of 9, -1 rows for batch normalisation"),
        (lambda x: run(x, runs=(4, 4), groups=2), "in runs of 4, 4 rows: does not go with 2 groups"),
        (lambda x: masked(x, np.ones(8, bool), runs=(4, 4)), "in runs of 4, 4 rows: does not go with a mask"),
    ],
)
def test_runs_that_do_not_fit_are_one_line(call, line):
    with pytest.raises(InputError, match=line) as error:
        call(random((8, 3)))
    assert "\n" not in str(error.value)
