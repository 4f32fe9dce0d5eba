"""The known answers and invariants of DRDR's objective (specification, section 9a)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim, stiefel
from jaxvl.methods.drdr import losses, recipe, structure
from jaxvl.methods.drdr.structure import Structure

RNG = np.random.default_rng(0)


def random_structure(k=5, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return Structure(*(rng.normal(size=shape).astype(np.float32) for shape in (d, (k, d))))


def rotation(d, seed=0):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


ramp = jax.jit(losses.ramp, static_argnums=1)
angular = jax.jit(losses.angular)


def test_ramp_and_rate_at_their_ends():
    assert float(ramp(0, 20_000)) == 0
    assert float(ramp(20_000, 20_000)) == pytest.approx(0.99990920, abs=1e-7)
    assert float(ramp(10_000, 20_000)) == pytest.approx(0.98661430, abs=1e-7)
    rate = jax.jit(optim.build(recipe.optimizer(3e-4, 0.0), 20_000).rate)
    assert float(rate(19_999)) == pytest.approx(4.967e-5, rel=1e-4)


@pytest.mark.parametrize("total", [20_000, 1_000_000])
def test_the_ramp_is_exact_at_its_start(total):
    steps = np.array([1, 2, 10, 1000])
    wanted = 2 / (1 + np.exp(-10 * steps / total)) - 1  # in float64
    np.testing.assert_allclose(ramp(steps, total), wanted, rtol=1e-6)


def test_a_higher_mask_leaves_short_spokes_out():
    a, b = random_structure(seed=1), random_structure(seed=2)
    short = a._replace(local=a.local.copy())
    short.local[2] = a.centre + 0.05 * (a.local[2] - a.centre)
    cos = np.asarray(jax.jit(lambda a, b: structure.cosines(a.spokes, b.spokes))(short, b))
    for mask, kept in ((1e-3, [0, 1, 2, 3, 4]), (0.2, [0, 1, 3, 4])):
        assert float(angular(short, b, mask)) == pytest.approx(1 - np.mean(cos[kept]), rel=1e-5)


def test_class_means_by_hand():
    features = np.array([[1, 0], [3, 0], [0, 2]], np.float32)
    means, counts = jax.jit(structure.class_means, static_argnums=2)(features, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(means, [[2, 0], [0, 0], [0, 2]])
    np.testing.assert_allclose(counts, [2, 0, 1])


def test_anchors_start_at_zero_and_shrink_where_a_class_is_absent():
    features, labels = np.array([[1, 0], [3, 0], [0, 2]], np.float32), np.array([0, 0, 2])

    @jax.jit
    def three(nothing, features, labels):
        first = structure.momentum(nothing, features, labels)
        second = structure.momentum(first, features[:2], labels[:2])
        return first, second, structure.momentum(first, features[:2], labels[:2], absent="keep")

    nothing = Structure(np.zeros(2, np.float32), np.zeros((3, 2), np.float32))
    first, second, kept = jax.device_get(three(nothing, features, labels))
    np.testing.assert_allclose(first.local, 0.3 * np.array([[2, 0], [0, 0], [0, 2]]), rtol=1e-6)
    np.testing.assert_allclose(first.centre, 0.3 * features.mean(0), rtol=1e-6)
    np.testing.assert_allclose(second.local[2], 0.7 * first.local[2], rtol=1e-6)
    np.testing.assert_allclose(kept.local[2], first.local[2])
    np.testing.assert_allclose(kept.local[0], second.local[0])


@pytest.mark.parametrize("absent", ["zero", "keep"])
def test_the_gradient_reaches_the_batch_and_not_the_old_anchors(absent):
    labels = np.array([0, 1, 1])

    def value(old, features):
        now = structure.momentum(old, features, labels, absent=absent)
        return now.local.sum() + now.centre.sum()

    old, features = random_structure(3, 2), np.ones((3, 2), np.float32)
    through_old, through_batch = jax.device_get(jax.jit(jax.grad(value, argnums=(0, 1)))(old, features))
    assert all(np.abs(g).max() == 0 for g in through_old)
    np.testing.assert_allclose(through_batch[:, 0], [0.3 + 0.1, 0.15 + 0.1, 0.15 + 0.1], rtol=1e-5)


def test_student_assignment_by_hand():
    q = jax.jit(losses.assignment)(np.array([[0.0]]), np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(q, [[2 / 3, 1 / 3]], rtol=1e-6)


def test_angular_term_knows_directions_only():
    a = random_structure()
    scaled = Structure(a.centre, a.centre + 5 * (a.local - a.centre))
    opposite = Structure(a.centre, a.centre - (a.local - a.centre))
    assert float(angular(a, scaled)) == pytest.approx(0, abs=1e-6)
    assert float(angular(a, opposite)) == pytest.approx(2, abs=1e-6)
    assert float(jax.jit(losses.distance)(a, opposite)) == pytest.approx(
        4 * np.square(a.local - a.centre).mean(), rel=1e-5
    )


def test_terms_do_not_change_when_both_domains_are_turned():
    a, b, q = random_structure(seed=1), random_structure(seed=2), rotation(8)
    turned = [Structure(s.centre @ q, s.local @ q) for s in (a, b)]
    terms = jax.jit(lambda a, b: [term(a, b) for term in (losses.translation, losses.distance, losses.angular)])
    for plain, both, one in zip(*(map(float, terms(*pair)) for pair in ((a, b), turned, (turned[0], b)))):
        assert both == pytest.approx(plain, rel=1e-5)
        assert one != pytest.approx(plain, rel=1e-2)


def test_spokes_without_length_have_no_say_and_no_gradient():
    """Specification 8.2: a class anchor that equals the global one up to rounding."""
    a, b = random_structure(seed=1), random_structure(seed=2)
    short = b.local.copy()
    short[3] = b.centre + np.float32(1e-8)
    both = jax.jit(jax.value_and_grad(lambda local, a, centre: losses.angular(a, Structure(centre, local))))
    value, gradient = jax.device_get(both(short, a, b.centre))
    assert np.abs(gradient[3]).max() == 0
    assert 1e-3 < np.abs(gradient).max() < 10
    others = np.array([0, 1, 2, 4])
    without = angular(*(Structure(s.centre, s.local[others]) for s in (a, b)))
    assert float(value) == pytest.approx(float(without), rel=1e-5)
    zeros = Structure(np.zeros(8, np.float32), np.zeros((5, 8), np.float32))
    assert np.isfinite(np.asarray(both(zeros.local, zeros, zeros.centre)[1])).all()


def test_consensus_vanishes_where_geometry_and_classifier_are_sure_and_agree():
    sure = np.eye(2, dtype=np.float32)
    agree, differ = 50 * sure, 50 * sure[::-1]
    consensus = jax.jit(losses.consensus)
    assert float(consensus(sure, agree)) == pytest.approx(0, abs=1e-5)
    assert float(consensus(sure, differ)) == pytest.approx(50, rel=1e-4)
    even = np.full((2, 2), 0.5, np.float32)
    assert float(consensus(even, np.zeros((2, 2), np.float32))) == pytest.approx(
        np.log(2), rel=1e-5
    )  # only the entropy


def test_consensus_of_the_code_sends_only_the_entropy_of_the_assignment_to_the_features():
    anchors, kernel = jnp.asarray(RNG.normal(size=(3, 4))), jnp.asarray(RNG.normal(size=(4, 3)))
    features = jnp.asarray(RNG.normal(size=(6, 4)))

    def value(features, kernel):
        q = losses.assignment(features, anchors)
        return losses.consensus(q, jax.lax.stop_gradient(features) @ kernel, "code")

    def entropy(features):
        soft = jax.nn.softmax(losses.assignment(features, anchors), axis=1)
        return -(soft * jnp.log(soft)).sum(1).mean()

    of_features, of_kernel = jax.jit(jax.grad(value, argnums=(0, 1)))(features, kernel)
    np.testing.assert_allclose(of_features, jax.jit(jax.grad(entropy))(features), atol=1e-6)
    assert np.abs(np.asarray(of_kernel)).max() > 1e-3


def test_anchor_weights_are_class_shares_or_equal():
    labels = np.array([0, 0, 1, 0])
    assert losses.anchor_weights(labels, 3, "uniform") is None
    got = jax.jit(losses.anchor_weights, static_argnums=(1, 2))(labels, 3, "pseudo")
    np.testing.assert_allclose(got, np.array([0.751, 0.251, 0.001]) / 1.003, rtol=1e-5)


@functools.cache
def trained_layer(d=8):
    """`(opt, step, seen)`: jitted `(params, state, source, moved) -> (params, state)`, and `(params, source, moved)
    -> (loss, cosines of the spokes, error of orthogonality)`."""
    opt = optim.build(
        configs.optimizer(name="sgd", lr=0.05, schedule="constant", momentum=0.9, nesterov=True, stiefel="^w$"), 100
    )

    def loss(params, source, moved):
        target = Structure(jnp.zeros(d), moved @ params["w"])
        return 0.8 * losses.distance(source, target) + 2.5 * losses.angular(source, target)

    @jax.jit
    def step(params, state, source, moved):
        moves, state, _ = opt.updates(jax.grad(loss)(params, source, moved), state, params, jnp.int32(0))
        return {"w": params["w"] + moves["w"]}, state

    @jax.jit
    def seen(params, source, moved):
        cosines = structure.cosines(source.spokes, moved @ params["w"])
        return loss(params, source, moved), cosines, stiefel.orthogonality_error(params["w"])

    return opt, step, seen


@pytest.mark.parametrize("degrees", [30, 60, 90])
def test_the_orthogonal_layer_recovers_a_rotation(degrees):
    """The claim of section 4.3: nothing but W is trained, on the local terms, and it undoes the shift."""
    rng = np.random.default_rng(7)
    d, k = 8, 9
    anchors = 2 * rng.normal(size=(k, d))
    turn, basis = np.eye(d), np.linalg.qr(rng.normal(size=(d, d)))[0]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    for i in range(0, d, 2):  # four random planes
        turn[np.ix_([i, i + 1], [i, i + 1])] = [[c, -s], [s, c]]
    turn = basis @ turn @ basis.T
    source = Structure(np.zeros(d, np.float32), anchors.astype(np.float32))
    moved = (anchors @ turn.T).astype(np.float32)
    opt, step, seen = trained_layer()
    params = {"w": np.eye(d, dtype=np.float32)}
    state = jax.jit(opt.direction.init)(params)
    first = float(seen(params, source, moved)[0])
    for i in range(100):
        params, state = step(params, state, source, moved)
        if i == 49:
            value, cosines, _ = jax.device_get(seen(params, source, moved))
            assert value < 1e-3 < first
            assert cosines.min() > 0.9998
            assert np.abs(np.asarray(params["w"]).T @ turn - np.eye(d)).max() < 0.03
    w = np.asarray(params["w"])
    assert np.abs(w.T @ turn - np.eye(d)).max() < 1e-3
    assert float(seen(params, source, moved)[2]) < 1e-5
    assert np.linalg.det(w) == pytest.approx(1, abs=1e-4)
    features = rng.normal(size=(5, d))
    np.testing.assert_allclose(np.linalg.norm(features @ w, axis=1), np.linalg.norm(features, axis=1), rtol=1e-5)


def test_facts_of_equal_and_of_orthogonal_structures():
    a = Structure(np.zeros(3, np.float32), 2 * np.eye(3, dtype=np.float32))
    got = jax.jit(structure.facts)(a, a)
    assert {k: pytest.approx(float(v), abs=1e-5) for k, v in got.items()} == {
        "spoke_length": 2.0, "matched_cosine": 1.0, "between_cosine": 0.0,
    }  # fmt: skip
