"""PoseGU's (reconstruction) lifters, losses, schedule, and what a run does with its pool."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim, session, sharding
from jaxvl.core import state as states
from jaxvl.core.errors import InputError
from jaxvl.methods.posegu import method, recipe
from jaxvl.methods.posegu.losses import pose_losses
from jaxvl.methods.posegu.model import LifterConfig, SemGraphConv, edges, lifter, mirrored
from tests import tiny
from tests.methods.tiny import TINY

COUNTS = {
    "mlp": (LifterConfig("mlp"), 4_288_557),
    "mlp of 4 stages": (LifterConfig("mlp", stages=4), 8_495_149),
    "vpose": (LifterConfig("vpose", stages=4), 8_485_933),
    "semgcn": (LifterConfig("semgcn", 128, 4, 0.0), 267_343),
}


def numbers(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@functools.cache
def small(name):
    """`(network, variables)` of width 8, one stage."""
    net = lifter(LifterConfig(name, 8, 1, 0.5))
    return net, tiny.drawn(lambda: net.init(jax.random.key(0), jnp.zeros((1, 16, 2)), train=False))


def norm(x, v, path, stats=None):
    p = functools.reduce(lambda tree, name: tree[name], path.split("/"), v["params"])
    s = functools.reduce(lambda tree, name: tree[name], path.split("/"), v["batch_stats"])
    axes = tuple(range(x.ndim - 1))
    mean, var = (x.mean(axes), x.var(axes)) if stats else (s["mean"], s["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("name", COUNTS)
def test_lifters_have_the_published_numbers_of_parameters(name):
    cfg, count = COUNTS[name]
    made = jax.eval_shape(lambda: lifter(cfg).init(jax.random.key(0), jnp.zeros((1, 16, 2)), train=False))
    assert numbers(made["params"]) == count


@pytest.mark.parametrize("name", ["mlp", "vpose"])
def test_residual_lifters_are_their_formulas(name):
    net, v = small(name)
    p, x = v["params"], np.random.default_rng(0).normal(size=(5, 16, 2)).astype(np.float32)
    dense = lambda y, at: y @ at["kernel"] + at.get("bias", 0)  # noqa: E731
    y = np.maximum(norm(dense(x.reshape(5, 32), p["in"]), v, "in_bn"), 0)
    z = y
    for i in (1, 2):
        z = np.maximum(norm(dense(z, p["stage0"][f"dense{i}"]), v, f"stage0/bn{i}"), 0)
    expected = dense(y + z, p["out"]).reshape(5, 15, 3)
    got = np.asarray(jax.jit(lambda v, x: net.apply(v, x, train=False))(v, x))
    assert not got[:, 0].any()
    np.testing.assert_allclose(got[:, 1:], expected, atol=1e-4)
    assert ("bias" in p["in"]) == ("bias" in p["stage0"]["dense1"]) == (name == "mlp")


def graph(x, at):
    """SemGCN's layer with loops over joints."""
    rows, columns = edges()
    out = np.zeros((*x.shape[:2], at["W"].shape[2]))
    for j in range(16):
        strength = np.exp(at["e"][0][rows == j])
        for k, share in zip(columns[rows == j], strength / strength.sum(), strict=True):
            out[:, j] += share * (x[:, k] @ at["W"][0 if j == k else 1])
    return out + at["bias"]


def test_semgcn_is_its_formula():
    net, v = small("semgcn")
    p, x = v["params"], np.random.default_rng(0).normal(size=(5, 16, 2)).astype(np.float32)
    unit = lambda y, at, path: np.maximum(norm(graph(y, at["gconv"]), v, f"{path}/bn"), 0)  # noqa: E731
    y = z = unit(x, p["in"], "in")
    for k in (1, 2):
        z = unit(z, p["res0"][f"unit{k}"], f"res0/unit{k}")
    got = jax.jit(lambda v, x: net.apply(v, x, train=False))(v, x)
    np.testing.assert_allclose(got, graph(y + z, p["out"]), atol=1e-4)
    rows, columns = edges()
    assert len(rows) == 46
    assert (np.diff(16 * rows + columns) > 0).all()  # row by row


def test_norms_of_training_are_of_the_batch_and_dropout_drops():
    net, v = small("semgcn")
    x = np.random.default_rng(1).normal(size=(6, 16, 2)).astype(np.float32)

    @jax.jit
    def trained(v, x, key):
        return net.apply(v, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    out, changed = jax.device_get(trained(v, x, jax.random.key(0)))
    y = graph(x, v["params"]["in"]["gconv"])
    old = v["batch_stats"]["in"]["bn"]
    after = changed["batch_stats"]["in"]["bn"]
    np.testing.assert_allclose(after["mean"], 0.9 * old["mean"] + 0.1 * y.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * old["var"] + 0.1 * y.var((0, 1), ddof=1), atol=1e-5)
    other, _ = jax.device_get(trained(v, x, jax.random.key(1)))
    assert np.abs(out - other).max() > 1e-3


def test_layers_start_as_published():
    layer = SemGraphConv(128, LifterConfig("semgcn", 128))
    p = jax.device_get(jax.jit(layer.init)(jax.random.key(0), np.zeros((1, 16, 128), np.float32)))["params"]
    bound = 1.414 * np.sqrt(6 / (128 * 128 + 2 * 128))  # PyTorch takes [2, in, out] for [out, in, size]
    assert 0.99 * bound < np.abs(p["W"]).max() <= bound
    assert (p["e"] == 1).all()
    assert 0.9 * 128**-0.5 < np.abs(p["bias"]).max() <= 128**-0.5
    net = lifter(LifterConfig("mlp", 512, 1))
    made = jax.jit(lambda: net.init(jax.random.key(0), jnp.zeros((1, 16, 2)), train=False))()["params"]
    assert np.std(made["stage0"]["dense1"]["kernel"]) == pytest.approx(np.sqrt(2 / 512), rel=0.01)
    assert np.abs(made["in"]["bias"]).max() <= 32**-0.5
    net = lifter(LifterConfig("vpose", 512, 0))
    made = jax.jit(lambda: net.init(jax.random.key(0), jnp.zeros((1, 16, 2)), train=False))()["params"]
    assert 0.95 * 32**-0.5 < np.abs(made["in"]["kernel"]).max() <= 32**-0.5


def test_a_mirror_turns_x_round_and_exchanges_the_sides():
    x = np.arange(48, dtype=np.float32).reshape(16, 3)
    seen = np.asarray(mirrored(x))
    np.testing.assert_array_equal(seen[0], [-0.0, 1, 2])
    np.testing.assert_array_equal(seen[5], x[2] * [-1, 1, 1])
    np.testing.assert_array_equal(seen[15], x[12] * [-1, 1, 1])
    np.testing.assert_array_equal(mirrored(seen), x)


def test_losses_of_a_pose_are_rooted():
    rng = np.random.default_rng(0)
    target, error = rng.normal(size=(3, 16, 3)).astype(np.float32), rng.normal(size=(3, 16, 3)).astype(np.float32)
    exact = target - target[:, :1]

    @jax.jit
    def every(exact, error, target):
        slope = jax.grad(lambda p: pose_losses(p, target, "mpjpe").sum())(exact)
        return pose_losses(exact + error, target), pose_losses(exact + error, target, "mpjpe"), slope

    square, distance, slope = jax.device_get(every(exact, error, target))
    np.testing.assert_allclose(square, (error**2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(distance, np.linalg.norm(error, axis=-1).mean(1), rtol=1e-5)
    assert np.isfinite(slope).all()
    assert not slope[:, 0].any()


def test_rates_of_the_recipes():
    c = recipe.generated("mlp")
    rate = optim.schedule(c.optim.main, c.train.steps)
    each, epoch = c.train.steps // 50, np.arange(50)
    for step in (epoch * each, (epoch + 1) * each - 1):
        np.testing.assert_allclose(jax.jit(rate)(step), 1e-4 * (1 - epoch / 51), rtol=1e-5)
    rate = jax.jit(optim.schedule(recipe.baseline("semgcn").optim.main, 10**6))
    assert float(rate(99_999)) == pytest.approx(2e-2)
    assert float(rate(250_000)) == pytest.approx(2e-2 * 0.96**2)
    assert recipe.baseline("semgcn").train.epochs == 100
    assert recipe.pool_columns(c) == -(-1_559_752 // 512)
    few = recipe.generated("mlp", "0.01S1")
    assert (recipe.real_rows(few), recipe.generated_rows(few)) == (128, 896)
    assert few.model.gen.pool_size == 200_000
    assert not few.init.required
    assert recipe.generated("mlp", "0.1S1").init.required


@pytest.fixture(scope="module")
def run():
    """`(compiled, states after each of nine updates, scalars of each)` of the tiny method: eight columns a pool."""
    config = TINY["posegu"]().config
    compiled = session.compile_method(configs.apply(configs.from_json(configs.to_json(config)), ("mesh.data=1",)))
    state, seen, scalars = compiled.fresh_state(), [], []
    for step in range(9):
        batch = sharding.put_batch(TINY["posegu"]().batch(step), compiled.mesh)
        state, found = compiled.updates[compiled.method.objective_at(step)](state, batch)
        seen.append(jax.device_get(state.mutables))
        scalars.append(jax.device_get(found))
    return compiled, seen, scalars


def test_the_pool_is_drawn_first_and_behind_each_pass_over_it(run):
    compiled, seen, scalars = run
    assert [compiled.method.objective_at(step) for step in (0, 1, 7, 8, 9, 16)] == [
        *("redraw", "lift", "lift", "redraw", "lift", "redraw")
    ]
    poses = [m["pool"]["pose"] for m in seen]
    assert poses[0].shape == (8, 8, 16, 3)
    assert np.linalg.norm(poses[0][..., 1, :], axis=-1).min() > 0.1
    assert all((p == poses[0]).all() for p in poses[1:8])
    assert (poses[8] != poses[0]).any((2, 3)).all()
    assert scalars[3]["pool_valid"] == 1
    assert scalars[3]["dropped"] == 0
    assert 0 < scalars[3]["ess"] <= 1
    assert scalars[0]["ess"] == scalars[7]["ess"] != scalars[8]["ess"]
    assert scalars[3]["loss"] == pytest.approx(scalars[3]["weighted"] + scalars[3]["penalty"], rel=1e-5)
    assert len(set(states.build_cells(compiled.method, compiled.target.params, compiled.config).members)) == 1


def test_a_pool_that_stays_is_sampled_anew_in_each_update():
    config = configs.from_json(configs.to_json(TINY["posegu"]().config))
    made = session.build_method(configs.apply(config, ("model.gen.redraw=false",)))
    assert [made.objective_at(step) for step in (0, 1, 8, 16)] == ["redraw", "lift", "lift", "lift"]


def test_a_baseline_has_no_pool_and_a_batch_a_real_pose():
    config = configs.from_json(configs.to_json(TINY["posegu"]().config))
    made = session.build_method(configs.apply(config, ("model.generated=0.0",)))
    assert list(made.objectives) == ["lift"]
    assert made.batch_spec["poses"]["x2d"].shape == (16, 16, 2)
    assert set(states.abstract_state(made, config).mutables) == {"batch_stats"}
    for share, kind in (("0.99", "real"), ("0.01", "generated")):
        with pytest.raises(
            InputError, match=rf"config.model.generated: {share} of 16 rows leaves no {kind} pose; set 0"
        ):
            session.build_method(configs.apply(config, (f"model.generated={share}",)))
    with pytest.raises(InputError, match="motion capture has no cameras; set it to 'random'"):
        session.build_method(configs.apply(config, ("model.generated=0.5", "data.reader=mocap")))


def test_predictions_are_rooted_and_averaged_with_the_mirror_image_where_asked(run):
    compiled, _, _ = run
    config = configs.apply(configs.from_json(configs.to_json(compiled.config)), ("model.flip=('3dhp',)",))
    variables = compiled.fresh_state().variables()
    x = {"x2d": TINY["posegu"]().batch(0)["poses"]["x2d"]}
    predict = jax.jit(method.build(config).predict)
    plain, both = (np.asarray(predict(variables, {s: x})["x3d"]) for s in ("h36m", "3dhp"))
    turned = mirrored(np.asarray(predict(variables, {"h36m": {"x2d": mirrored(x["x2d"])}})["x3d"]))
    assert not plain[:, 0].any()
    np.testing.assert_allclose(both, (plain + turned) / 2, atol=1e-6)
    assert np.abs(both - plain).max() > 1e-3
