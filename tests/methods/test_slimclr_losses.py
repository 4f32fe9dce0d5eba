"""SlimCLR's losses: the known answers of the specification's section 9."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvl.core import optim
from jaxvl.core.errors import InputError
from jaxvl.methods.slimclr import losses, recipe

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("mode", "weights"),
    [(5, (2.1, 1, 1)), (3, (1.429, 1.143, 0.429)), (6, (1.432, 0.886, 0.682)), (7, (1.8, 1, 1)), (0, (1, 1, 1))],
)
def test_weights_of_widths(mode, weights):
    assert losses.width_weights((1.0, 0.8, 0.3), mode) == pytest.approx(weights)


def test_weights_of_the_paper_and_shares():
    assert losses.width_weights((1.0, 0.75, 0.5, 0.25), 5) == (2.5, 1, 1, 1)
    assert losses.width_weights((1.0, 0.5), 1) == (0.667, 0.333)
    assert losses.width_weights((1.0, 0.5), 2) == (1.0, 0.5)
    assert losses.width_weights((1.0,), 5) == (1.0,)
    with pytest.raises(InputError, match=r"config.model.reweight: 4"):
        losses.width_weights((1.0, 0.5), 4)


def test_info_nce_by_hand():

    @jax.jit
    def value(q, k, queue):
        s = losses.moco_logits(q, k, queue)
        assert s.shape == (1, 8)
        return losses.info_nce(s, 1.0)

    eye = np.eye(8, dtype=np.float32)
    assert float(value(eye[:1], eye[:1], eye[1:])) == pytest.approx(np.log(1 + 7 / np.e), rel=1e-6)  # 1.2741


def test_batch_contrast_of_equal_rows_is_2t_log_b():
    q = np.ones((6, 4), np.float32) / 2
    assert float(jax.jit(losses.batch_contrast)(q @ q.T, 0.3)) == pytest.approx(0.6 * np.log(6), rel=1e-6)


def test_simclr_has_one_column_for_one_pair_and_labels_are_the_partners():
    z = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    pair = jax.jit(lambda z: losses.cross_entropy(losses.without_diagonal(z @ z.T), losses.simclr_labels(2)))
    assert float(pair(z)) == 0
    z = RNG.normal(size=(8, 3)).astype(np.float32)
    full = z @ z.T
    kept, labels = map(np.asarray, jax.jit(lambda x: (losses.without_diagonal(x), losses.simclr_labels(8)))(full))
    for r in range(8):
        np.testing.assert_array_equal(kept[r], np.delete(full[r], r))
        assert kept[r, labels[r]] == full[r, (r + 4) % 8]


def logits(rows=5, n=7):
    return jnp.asarray(RNG.normal(size=(rows, n)), jnp.float32)


@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_distillation_of_the_teacher_itself(tau):
    s = logits()

    @jax.jit
    def entropy_and_ours(s):
        entropy = optax.losses.safe_softmax_cross_entropy(s / tau, jax.nn.softmax(s / tau)).mean()
        return entropy, jax.value_and_grad(lambda x: losses.soft_cross_entropy(s, x, tau))(s)

    entropy, (value, gradient) = entropy_and_ours(s)
    assert float(value) == pytest.approx(tau**2 * float(entropy), rel=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("kind", ["ce", "dkd", "atkd"])
def test_a_constant_in_the_student_s_logits_changes_nothing(kind):
    t, s, labels = logits(), np.asarray(logits()), np.arange(5)
    value = jax.jit(lambda x: losses.distillation(kind, t, x, labels, 3.0))
    one, other = (value(x) for x in (s, s + np.float32(2.5)))
    assert float(one) == pytest.approx(float(other), rel=1e-4)


def test_distillation_at_high_temperature_is_half_the_centred_square_difference():
    tau = 100.0
    centred = lambda x: x - x.mean(-1, keepdims=True)  # noqa: E731

    @jax.jit
    def both(t, s):
        target = jax.nn.softmax(t / tau)
        value = (target * (jnp.log(target) - jax.nn.log_softmax(s / tau))).sum(-1).mean()
        return value, jnp.square(centred(s) - centred(t)).mean()

    value, wanted = map(float, both(logits(n=50), logits(n=50)))
    value, wanted = tau**2 * value, 0.5 * wanted
    assert value == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("kind", ["mse", "mse_features", "kd_features", "dkd", "atkd", "ce"])
def test_distillations_teach_the_student_and_never_the_teacher(kind):
    t, s, labels = logits(), logits(), np.arange(5)
    slopes = jax.jit(jax.grad(lambda t, s: losses.distillation(kind, t, s, labels, 2.0), argnums=(0, 1)))
    of_t, of_s = slopes(t, s)
    np.testing.assert_array_equal(of_t, 0)
    assert np.abs(np.asarray(of_s)).max() > 0
    np.testing.assert_allclose(slopes(t, t)[1], 0, atol=1e-5)


def test_decoupled_distillation_against_its_definition():
    t, s, labels = np.asarray(logits(), np.float64), np.asarray(logits(), np.float64), np.array([0, 3, 6, 1, 1])
    wanted = []
    for row_t, row_s, y in zip(t, s, labels):
        p, q = (np.exp(r) / np.exp(r).sum() for r in (row_t, row_s))
        rest = np.arange(7) != y
        two_p, two_q = np.array([p[y], p[rest].sum()]), np.array([q[y], q[rest].sum()])
        within_p, within_q = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
        wanted.append((two_p * np.log(two_p / two_q)).sum() + 0.5 * (within_p * np.log(within_p / within_q)).sum())
    assert float(jax.jit(losses.decoupled)(t, s, labels)) == pytest.approx(np.mean(wanted), rel=1e-4)


def test_unit_rows_and_a_row_of_zeros():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)

    def total(x):
        rows = losses.normalize(x)
        return rows.sum(), rows

    gradient, rows = jax.jit(jax.grad(total, has_aux=True))(x)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])
    assert np.isfinite(np.asarray(gradient)).all()


def test_momentum_of_v3_rises_to_one():
    values = jax.jit(lambda e: losses.ema_momentum(0.99, "cosine", e))(np.array([0, 0.5, 1], np.float32))
    assert values.tolist() == pytest.approx([0.99, 0.995, 1.0], abs=1e-6)


def test_rates_of_the_published_schedules():
    rate = optim.schedule(recipe.configs.optimizer(lr=0.4, warmup=20, floor=1e-8), 200)
    got = jax.jit(rate)(np.array([0, 10, 20, 110, 199])).tolist()
    assert got == pytest.approx([1e-8, 0.2, 0.4, 0.2, 3.05e-5], rel=1e-2)
    c = recipe.configs.with_length(recipe.mocov3(300), 1251)  # 1,281,167 pictures in batches of 1,024
    rate, half = optim.schedule(c.optim.main, c.train.steps), c.train.steps // 2
    before, after = jax.jit(rate)(np.array([half - 1, half + 1])).tolist()
    assert before == pytest.approx(0.63, abs=0.01)
    assert after == pytest.approx(1.69, abs=0.02)


def test_the_teacher_may_have_a_temperature_of_its_own():
    t, s = (jnp.asarray(np.random.default_rng(k).normal(size=(4, 7))) for k in (0, 1))
    labels = np.zeros(4, np.int32)
    taus = ((5.0,), (5.0, 5.0), (5.0, 0.5))
    every = jax.jit(lambda t, s: [losses.distillation("ce", t, s, labels, *tau) for tau in taus])
    same, given, own = map(float, every(t, s))
    assert given == pytest.approx(same)
    p = np.exp(np.asarray(t) / 0.5)
    p /= p.sum(1, keepdims=True)
    log_s = np.asarray(s) / 5 - np.log(np.exp(np.asarray(s) / 5).sum(1, keepdims=True))
    wanted = 25 * -(p * log_s).sum(1).mean()
    assert own == pytest.approx(wanted, rel=1e-5)
