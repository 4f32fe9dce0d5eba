"""PoseGU's (reconstruction) generator: kinematics, densities, limits, views, the pool; and what its weights do."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxvl.core import sharding
from jaxvl.core.errors import InputError
from jaxvl.data import mocap
from jaxvl.methods.posegu import crm, generator, method, pool, recipe
from jaxvl.methods.posegu.generator import Settings
from jaxvl.methods.posegu.limits import LIMITS, within_limits
from jaxvl.ops import cameras, kinematics
from tests.methods import numpy_posegu as plain

PARENTS = generator.PARENTS
WALK = mocap.clips()["walk"].joints[::5]
RANDOM = Settings(cameras="random")
FREE = dataclasses.replace(RANDOM, limits=LIMITS["none"])


def alone(k, degrees, limit):
    """Settings in which group k turns and no other."""
    sigma = tuple(degrees if i == k else 0.0 for i in range(12))
    return Settings(sigma_deg=sigma, theta_max_sigmas=limit / degrees)


people = jax.jit(method.somebody, static_argnums=0)


@functools.cache
def seeds():
    """Eight frames of walking, z up, before the placeholder's cameras."""
    world = jnp.asarray(WALK @ cameras.Y_UP, jnp.float32)
    return people(len(world))._replace(world=world, count=jnp.asarray(len(world), jnp.int32))


@functools.cache
def found():
    """2,048 generated poses, compiled once."""
    return jax.device_get(jax.jit(generator.generate, static_argnums=(2, 3))(jax.random.key(3), seeds(), RANDOM, 2048))


def drew(settings, n):
    return jax.device_get(jax.jit(generator.draw, static_argnums=(2, 3))(jax.random.key(5), seeds(), settings, n))


def drawn(n, seed=0):
    """`(bones [n, 16, 3], omega, ratio)`, numpy float64."""
    rng = np.random.default_rng(seed)
    x = WALK[rng.integers(0, len(WALK), n)]
    return x, rng.normal(size=(n, 12, 3)) * plain.SIGMA[:, None] * 0.7, rng.uniform(0.85, 1.15, (n, 9))


act = jax.jit(lambda x, omega, scale: generator.act(kinematics.bones(x, PARENTS), omega, scale))


def acted(x, omega, ratio):
    scale = ratio[:, list(generator.LENGTHS)]
    return np.asarray(act(*(jnp.asarray(a, jnp.float32) for a in (x, omega, scale))))


def test_actions_are_those_of_matrices():
    x, omega, ratio = drawn(20)
    expected = np.stack([plain.act(*row) for row in zip(x, omega, ratio, strict=True)])
    np.testing.assert_allclose(acted(x, omega, ratio), expected, atol=2e-6)


def test_no_action_is_the_seed_and_turning_keeps_lengths():
    x, omega, ratio = drawn(20)
    np.testing.assert_allclose(acted(x, 0 * omega, np.ones_like(ratio)), x - x[:, :1], atol=1e-6)
    length = lambda a: np.linalg.norm(kinematics.bones(np.asarray(a, np.float64), PARENTS), axis=-1)  # noqa: E731
    assert np.abs(length(acted(x, omega, np.ones_like(ratio))) - length(x)).max() < 1e-6


def test_the_first_group_turns_the_body_and_another_its_limb_alone():
    x, omega, ratio = drawn(10)
    ones, body, arm = np.ones_like(ratio), np.zeros_like(omega), np.zeros_like(omega)
    body[:, 0], arm[:, 8] = omega[:, 0], omega[:, 8]
    apart = lambda a: np.linalg.norm(a[:, :, None] - a[:, None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(acted(x, body, ones)), apart(x), atol=2e-6)
    moved = np.abs(acted(x, arm, ones) - (x - x[:, :1])).max((0, 2)) > 1e-3
    assert np.flatnonzero(moved).tolist() == [11, 12]


@functools.partial(jax.jit, static_argnums=1)
def logarithms(omega, settings):
    return generator.log_propensity(omega, settings), generator.log_target(omega, settings)


@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize(("degrees", "limit"), [(40, 120), (10, 30), (15, 45), (30, 90), (45, 135), (120, 180)])
def test_densities_integrate_to_one(degrees, limit, factor):
    settings = dataclasses.replace(alone(5, degrees, limit), mix=((0.7, factor), (0.3, 1.0)))
    radius = np.linspace(0, math.radians(limit), 20001)
    omega = np.zeros((len(radius), 12, 3))
    omega[:, 5] = radius[:, None] * np.array([2, -1, 2]) / 3
    for log in logarithms(jnp.asarray(omega, jnp.float32), settings):
        values = np.exp(np.asarray(log, np.float64))
        assert np.trapezoid(4 * np.pi * radius**2 * values, radius) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("mix", [((1.0, 1.0),), ((0.95, 0.3), (0.05, 1.0))], ids=["one", "two"])
def test_densities_of_whole_actions(mix):
    _, omega, _ = drawn(6)
    omega[0] *= 1e-6  # the series
    settings, x = Settings(mix=mix), omega.astype(np.float32)
    log_p, log_q = map(np.asarray, logarithms(x, settings))
    np.testing.assert_allclose(log_p, [plain.log_p(row, mix) for row in omega], rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(log_q[1:], [plain.log_q(r) for r in omega[1:]], atol=2e-4)
    x[2, 4] = [0, 0, 1.6]  # beyond 90 degrees
    log_p, log_q = map(np.asarray, logarithms(x, settings))
    assert np.isneginf(log_p).tolist() == [False, False, True, *[False] * 3]
    assert np.isneginf(log_q[2])


def test_drawn_angles_are_truncated_normal_vectors():
    settings = Settings()
    assert settings.rounds == 2
    turn = jax.jit(generator.rotations, static_argnums=2)
    omega, inside = map(np.asarray, turn(jax.random.key(0), np.zeros(20000, np.int32), settings))
    assert 0.98 < inside.mean() < 0.995  # what is left after two rounds makes a pose invalid
    radius = np.linalg.norm(omega[inside], axis=-1) / plain.SIGMA
    assert radius.max() <= 3 + 1e-5
    whole = stats.chi(3).cdf(3)
    for k in (0, 7, 11):
        assert stats.kstest(radius[:, k], lambda r: stats.chi(3).cdf(r) / whole).pvalue > 1e-3
    assert Settings(sigma_deg=(120.0,) * 12).rounds == 8
    assert Settings(sigma_deg=(0.0,) * 12).rounds == 1


def test_weighting_takes_away_the_bias_of_the_generator():
    """One bone of .2748 m that turns with a spread of 25 degrees, up to 120; the prediction is the seed itself."""
    settings = alone(8, 25.0, 120.0)
    angle = np.linspace(1e-6, math.radians(120), 4001)
    axis = np.linspace(0, 1, 2001)  # cosine between axis and bone
    chord = 2 * 0.2748 * np.sin(angle / 2) * np.trapezoid(np.sqrt(1 - axis**2), axis)
    by_target, by_generator = 1 - np.cos(angle), angle**2 * np.exp(-0.5 * (angle / math.radians(25)) ** 2)
    mean = lambda density: np.trapezoid(chord * density, angle) / np.trapezoid(density, angle)  # noqa: E731
    assert 1000 * mean(by_target) == pytest.approx(293, abs=1)
    assert 1000 * mean(by_generator) == pytest.approx(145, abs=1)

    @jax.jit
    def one(key):
        omega, inside = generator.rotations(key, jnp.zeros(8000, jnp.int32), settings)
        bone = kinematics.rotate(kinematics.axis_angle_quaternion(omega[:, 8]), jnp.asarray([[0.0, 0.2748, 0.0]]))
        loss = jnp.linalg.norm(bone - jnp.asarray([0.0, 0.2748, 0.0]), axis=-1)
        p, q = generator.log_propensity(omega, settings), generator.log_target(omega, settings)
        ips, snips = (crm.weights(p, q, mode, 1.0, valid=inside) for mode in ("ips", "snips"))
        return jnp.stack([(loss * w).sum() for w in (ips, snips, inside)]) / inside.sum()

    runs = 1000 * np.stack([one(k) for k in jax.random.split(jax.random.key(1), 60)])
    ips, snips, naive = runs.mean(0)
    error = runs.std(0) / math.sqrt(len(runs))
    assert naive == pytest.approx(145, abs=1)
    assert abs(ips - 293) < max(3.5 * error[0], 6)
    assert abs(snips - 290) < max(3.5 * error[1], 8)  # biased by a finite pool


def test_weights_and_risk_have_their_known_answers():
    p, q = np.array([-3, -1, -2, 0.5], np.float32), np.array([-1, -2, -2.5, 0], np.float32)
    some, none = np.array([True, False, True, True]), np.zeros(4, bool)

    @jax.jit
    def every(p, q, some, none):
        return (
            [crm.weights(p, p, mode) for mode in recipe.WEIGHTINGS],
            [(crm.weights(p + 30, q, mode), crm.weights(p, q, mode)) for mode in ("snips", "default")],
            (
                crm.weights(p, q, "ips", alpha=0.5),
                crm.weights(p, q, "clipped", 0.5, 1.2),
                crm.weights(p, q, "snips", 0.5),
                crm.weights(p, q, "default", 0.5, 1.3),
                crm.weights(p, q, "default", 0.5, 1e-9),
                crm.weights(p, q, "snips", 0.5, valid=some),
                crm.weights(p, q, valid=none),
            ),
        )

    equal, shifted, others = jax.device_get(every(p, q, some, none))
    ips, clipped, snips, default, low, kept, nothing = others
    for w in equal:
        np.testing.assert_allclose(w, 1, rtol=1e-6)
    ratio = np.exp(q - p)
    np.testing.assert_allclose(ips, ratio, rtol=1e-6)
    np.testing.assert_allclose(clipped, np.minimum(ratio**0.5, 1.2), rtol=1e-6)
    for one, other in shifted:
        np.testing.assert_allclose(one, other, rtol=1e-5)
    tempered = ratio**0.5 / (ratio**0.5).mean()
    np.testing.assert_allclose(snips, tempered, rtol=1e-6)
    np.testing.assert_allclose(default, np.minimum(tempered, 1.3), rtol=1e-6)
    np.testing.assert_allclose(low, 1e-9)
    assert kept[1] == 0
    np.testing.assert_allclose(kept[some], ratio[[0, 2, 3]] ** 0.5 / (ratio[[0, 2, 3]] ** 0.5).mean(), rtol=1e-6)
    assert not nothing.any()
    share = jax.jit(crm.effective_share)
    assert float(share(np.ones(5, np.float32))) == 1
    assert float(share(np.array([1, 1e-9, 1e-9], np.float32))) == pytest.approx(1 / 3, rel=1e-5)
    with pytest.raises(InputError, match=r"config.model.crm.mode: 'best' is none of"):
        crm.weights(p, q, "best")

    risk = jax.jit(crm.risk)
    ones = np.ones(64, np.float32)
    two = np.array([0, 2], np.float32)
    assert tuple(map(float, risk(two, ones[:2], 1.0))) == pytest.approx((2, 1, 1))
    slope = jax.jit(jax.grad(lambda x, w: crm.risk(x, w, 1.0)[0]))(two, ones[:2])
    np.testing.assert_allclose(slope, [0, 1], atol=1e-5)
    assert float(risk(np.full(4, 0.7, np.float32), ones[:4], 0.3)[2]) == pytest.approx(0.3e-6, rel=1e-3)
    three = risk(np.array([0, 9, 2], np.float32), ones[:3], 1.0, np.array([True, False, True]))
    assert float(three[0]) == pytest.approx(2)
    u = np.random.default_rng(0).normal(1000, 0.01, 64)  # what E[u^2] - E[u]^2 would lose in float32
    seen = np.asarray(u, np.float32).astype(np.float64)
    assert float(risk(u.astype(np.float32), ones, 1.0)[2]) == pytest.approx(math.sqrt(seen.var(ddof=1) / 64), rel=0.01)


def test_limits_are_those_of_the_table_in_both_libraries():
    x = found().pose
    free = drew(FREE, 300).pose
    every = np.concatenate([free, x[:100], WALK - WALK[:, :1]]).astype(np.float64)
    expected = np.array([plain.within_limits(pose) for pose in every])
    assert 0.15 < expected[:300].mean() < 0.6
    assert expected[300:].all()
    np.testing.assert_array_equal(within_limits(every), expected)
    np.testing.assert_array_equal(jax.jit(within_limits)(jnp.asarray(every, jnp.float32)), expected)
    assert not within_limits(np.full((16, 3), np.nan))
    assert LIMITS["none"](every).all()
    passed = {name: within_limits(clip.joints).mean() for name, clip in mocap.clips().items()}
    assert min(passed.values()) > 0.66
    assert all(passed[name] == 1 for name in ("walk", "punch", "kick", "dance_a", "0walk_forward"))


def test_generated_poses_are_what_their_actions_make_of_the_seeds():
    g = found()
    assert g.valid.all()
    assert set(g.seed) == set(range(8))
    assert not g.comp.any()
    np.testing.assert_allclose(g.ratio[:, 4], 1)
    others = np.delete(g.ratio, 4, 1)
    assert 0.85 <= others.min() < 0.86
    assert 1.14 < others.max() <= 1.15
    for i in range(5):
        again = plain.act(WALK[g.seed[i]] @ cameras.Y_UP, g.omega[i], g.ratio[i])
        np.testing.assert_allclose(g.pose[i], again, atol=5e-6)
        assert g.log_p[i] == pytest.approx(plain.log_p(g.omega[i]), abs=1e-3)
        assert g.log_q[i] == pytest.approx(plain.log_q(g.omega[i]), abs=1e-3)
    np.testing.assert_allclose(g.x2d, cameras.project(g.x3d, np.array([2.29, 2.29, *[0] * 7], np.float32)), atol=1e-5)
    root = g.x3d[:, 0]
    assert np.abs(root[:, 0]).max() <= 0.5
    assert np.abs(root[:, 1]).max() <= 0.3
    assert 4 <= root[:, 2].min() < root[:, 2].max() <= 6
    apart = lambda x: np.linalg.norm(x - x[:, :1], axis=-1)  # noqa: E731
    np.testing.assert_allclose(apart(g.x3d), apart(g.pose), atol=1e-5)
    high = g.pose[:, 9, 2] - g.pose[:, 0, 2] > 0.6
    assert (g.x3d[high, 9, 1] < g.x3d[high, 0, 1]).all()  # z up in the world, y down before the camera


def test_template_lengths_are_those_of_five_subjects():
    settings = dataclasses.replace(FREE, bone_length_mode="template")
    action = drew(settings, 64)
    length = np.linalg.norm(kinematics.bones(np.asarray(action.pose, np.float64), PARENTS), axis=-1)[:, 1:]
    own = np.linalg.norm(kinematics.bones(WALK, PARENTS), axis=-1)[0, 1:]
    group = np.array(generator.LENGTHS)
    bodies = generator.TEMPLATES[:, group]
    nearest = np.abs(length[:, None] - bodies)[..., group != 4].max(-1)
    assert nearest.min(1).max() < 1e-5
    assert len(set(nearest.argmin(1))) == 5
    np.testing.assert_allclose(length[:, 7], own[7], atol=1e-6)
    np.testing.assert_allclose(np.asarray(action.ratio)[:, group] * own, length, atol=1e-5)


def test_views_by_the_cameras_of_the_data_set():
    settings, key = Settings(views=2), jax.random.key(1)
    four, world = people(4), np.asarray(seeds().world[:4])
    look = jax.jit(lambda pose, who: generator.views(key, pose, jnp.arange(4), who, settings))
    x2d, x3d, seen = map(np.asarray, look(world - world[:, :1], four))
    assert seen.all()
    np.testing.assert_allclose(x2d, cameras.project(x3d, np.asarray(four.cameras_k)[0, 0]), atol=1e-6)
    depth = x3d[:, 0]
    assert (np.abs(depth - [0, 0, 4]) <= [0.51, 1e-5, 0.51]).all()  # jittered on the ground, not upwards
    near, world = four._replace(cameras_t=np.asarray(four.cameras_t) / 100), np.asarray(four.world)
    x2d, _, seen = map(np.asarray, look(world - world[:, :1], near))
    assert not seen.any()
    assert not x2d.any()


def test_enough_valid_poses_are_drawn_or_it_is_said():
    few = dataclasses.replace(RANDOM, oversample=1)
    g = generator.generate_valid(jax.random.key(0), seeds(), few, 64)
    assert g.valid.all()
    assert len(g.pose) == 64
    assert all(map(plain.within_limits, g.pose.astype(np.float64)))
    never = dataclasses.replace(few, limits=lambda x: jnp.zeros(x.shape[:-2], bool))
    with pytest.raises(
        InputError, match=r"config.model.gen: of 512 poses drawn around these seeds 0 are valid, 64 are"
    ):
        generator.generate_valid(jax.random.key(0), seeds(), never, 64, tries=2)
    assert 0.3 < generator.surviving(seeds().world, RANDOM) < 0.45
    generator.check_survival(seeds().world, RANDOM)
    with pytest.raises(
        InputError, match=r"config.model.gen.oversample: 2, but of the poses drawn around these seeds only"
    ):
        generator.check_survival(seeds().world, dataclasses.replace(RANDOM, oversample=2))


def test_a_pool_does_not_depend_on_the_devices_that_draw_it(monkeypatch):
    monkeypatch.setattr(pool, "BLOCK", 32)
    monkeypatch.setattr(pool, "AT_ONCE", 1024)
    assert pool.blocks_of(16, 32, 4) == (16, 2)
    assert pool.blocks_of(16, 32, 4, devices=8) == (16, 1)  # other turns, the same poses
    settings = dataclasses.replace(RANDOM, mix=((0.9, 0.3), (0.1, 1.0)))
    draw = lambda key, s: pool.drawn(key, s, settings, 16, 32)  # noqa: E731
    one = jax.jit(draw)(jax.random.key(2), seeds())
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2, "tensor": 1})

    def on_mesh(key, s):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return draw(key, s)

    where = sharding.state_shardings({"pool": one._asdict()}, mesh, [(pool.RULE, jax.P(sharding.BATCH_AXES))])["pool"]
    eight = jax.jit(on_mesh, out_shardings=pool.Pool(**where))(jax.random.key(2), seeds())
    assert len(eight.pose.sharding.device_set) == 8
    assert eight.pose.addressable_shards[0].data.shape == (2, 32, 16, 3)
    np.testing.assert_array_equal(eight.seed, one.seed)
    for name in ("pose", "weight", "ess", "found"):
        np.testing.assert_allclose(getattr(eight, name), getattr(one, name), rtol=1e-5, atol=1e-6, err_msg=name)
    assert float(one.found) == 1
    assert len(np.unique(np.asarray(one.pose)[..., 1, 0])) == 512  # no block is like another
    assert float(one.weight.max()) == 10  # clipped, so that the mean is below 1
    assert 0.5 < float(one.weight.mean()) < 1
    assert 0.05 < float(one.ess) < 1


def test_a_column_and_a_sample_of_the_pool():
    rows, columns = 4, 6
    seed, one = np.arange(rows * columns).reshape(rows, columns), np.float32(1)
    full = pool.Pool(seed[..., None, None] * np.ones((16, 3), np.float32), seed, seed + np.float32(0.5), one, one)
    pose, index, weight = map(np.asarray, jax.jit(pool.column)(full, 2))
    assert index.tolist() == [2, 8, 14, 20]
    np.testing.assert_array_equal(pose[:, 3, 1], index)
    np.testing.assert_array_equal(weight, index + 0.5)
    pose, index, weight = map(np.asarray, jax.jit(pool.sample)(full, jax.random.key(0)))
    assert (index // columns).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(pose[:, 3, 1], index)
    np.testing.assert_array_equal(weight, index + 0.5)
    assert jax.jit(pool.interleaved)(np.arange(2), 10 + np.arange(6)).tolist() == [0, 10, 11, 12, 1, 13, 14, 15]
