import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim
from jaxvl.core.errors import InputError


def test_cosine_with_warmup_has_the_published_values():
    cfg = configs.optimizer(lr=5e-3, warmup=0.1, floor=1e-8)
    rate = optim.schedule(cfg, 100)
    want = {0: 1e-8, 5: 2.500005e-3, 10: 5e-3, 55: 2.5e-3, 99: 1.523e-6}
    for step, value in want.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-3)


def test_unshifted_cosine_drops_at_the_end_of_warmup():
    rate = optim.schedule(configs.optimizer(lr=1.0, warmup=0.1, schedule="cosine_unshifted"), 1000)
    assert float(rate(50)) == pytest.approx(0.5)
    assert float(rate(101)) == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.101)), rel=1e-5)


def test_step_schedule_counts_boundaries():
    rate = optim.schedule(configs.optimizer(lr=1.0, schedule="step", boundaries=(0.6, 0.8)), 100)
    assert [float(rate(t)) for t in (0, 59, 60, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_inverse_decay_counts_updates_from_one():
    rate = optim.schedule(configs.optimizer(lr=3e-4, schedule="inverse_decay"), 20_000)
    assert float(rate(19_999)) == pytest.approx(4.967e-5, rel=1e-3)  # 3e-4 * 11^-0.75
    assert float(rate(0)) == pytest.approx(3e-4 * 1.0005**-0.75, rel=1e-6)
    assert float(rate(9_999)) == pytest.approx(3e-4 * 6**-0.75, rel=1e-6)


def test_bert_adam_first_step_has_no_bias_correction():
    cfg = configs.optimizer(name="bert_adam", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.2)
    opt = optim.build(cfg, 10)
    params = {"a/kernel": jnp.array([2.0, -1.0]), "a/bias": jnp.array([3.0, 3.0])}
    grads = {k: jnp.array([0.5, -4.0]) for k in params}
    direction, _ = opt.direction.update(grads, opt.direction.init(params), params)
    np.testing.assert_allclose(direction["a/bias"], [0.7071, -0.7071], rtol=1e-4)
    np.testing.assert_allclose(direction["a/kernel"], [0.7071 + 0.4, -0.7071 - 0.2], rtol=1e-4)


def test_sgd_has_torch_semantics():
    cfg = configs.optimizer(name="sgd", momentum=0.9, nesterov=True, weight_decay=0.1, no_decay="$^")
    opt = optim.build(cfg, 10)
    p, buf, lr = np.array([1.0]), None, 0.1
    params = {"w": jnp.array(p)}
    state = opt.direction.init(params)
    for g in (0.3, -0.2, 0.5):
        d = g + 0.1 * p
        buf = d if buf is None else 0.9 * buf + d
        p = p - lr * (d + 0.9 * buf)
        direction, state = opt.direction.update({"w": jnp.array([g])}, state, params)
        params = {"w": params["w"] - lr * direction["w"]}
        np.testing.assert_allclose(params["w"], p, rtol=1e-6)


def test_lars_leaves_vectors_alone():
    cfg = configs.optimizer(name="lars", weight_decay=0.5, trust=0.001, momentum=0.0)
    opt = optim.build(cfg, 10)
    params = {"k": jnp.array([[3.0, 4.0]]), "b": jnp.array([1.0, 1.0])}
    grads = {"k": jnp.array([[1.0, 0.0]]), "b": jnp.array([0.2, 0.4])}
    direction, _ = opt.direction.update(grads, opt.direction.init(params), params)
    g = np.array([[2.5, 2.0]])
    np.testing.assert_allclose(direction["k"], g * 0.001 * 5 / np.linalg.norm(g), rtol=1e-5)
    np.testing.assert_allclose(direction["b"], [0.2, 0.4], rtol=1e-6)


def test_multiplier_is_the_first_match():
    opt = optim.build(configs.optimizer(groups=(("head", 10.0), ("visual|text", 1e-3))), 10)
    assert [opt.multiplier(p) for p in ("visual/head/w", "text/w", "other")] == [10.0, 1e-3, 1.0]


@pytest.mark.parametrize(("field", "value"), [("name", "adagrad"), ("schedule", "cosin")])
def test_unknown_names_are_refused(field, value):
    cfg = configs.optimizer(**{field: value})
    with pytest.raises(InputError, match=rf"config.optim.main.{field}: '{value}'"):
        optim.build(cfg, 10)


# -- optimisers and schedules by dotted name


def trajectory(transformation, steps, rate=None):
    """Parameters after each update of a small quadratic, by `Optimizer.updates` or by optax alone."""
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}
    scale = {"a": jnp.array([1.0, 3.0]), "b": jnp.array([[-2.0]])}
    state = (transformation.direction if rate is None else transformation).init(params)
    rows = []
    for step in range(steps):
        grads = jax.tree.map(lambda p, s: s * p, params, scale)
        if rate is None:
            moves, state, _ = transformation.updates(grads, state, params, jnp.int32(step))
        else:
            moves, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, moves)
        rows.append(np.concatenate([np.ravel(x) for x in params.values()]))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("name", "args", "plain"),
    [
        ("optax.lion", {"b1": 0.8, "weight_decay": 0.1}, lambda lr: optax.lion(lr, b1=0.8, weight_decay=0.1)),
        ("optax.adamax", {}, lambda lr: optax.adamax(lr)),
        ("optax.scale_by_rms", {"decay": 0.5}, lambda lr: optax.rmsprop(lr, decay=0.5)),
    ],
)
def test_an_optimiser_of_optax_enters_by_name(name, args, plain):
    cfg = configs.optimizer(
        name=name, lr=0.01, args=args, schedule="optax.linear_schedule", schedule_args={"end_value": 0.0}
    )
    ours = trajectory(optim.build(cfg, 10), 10)
    rate = optax.linear_schedule(0.01, 0.0, 10)  # the house gives the rate and the length
    np.testing.assert_allclose(ours, trajectory(plain(rate), 10, rate), rtol=1e-5, atol=1e-7)


def half_way(lr, total_steps, factor=0.5):
    """A schedule of the user's own: `lr`, and from half of all steps on `factor * lr`."""
    return lambda step: jnp.where(step < total_steps / 2, lr, factor * lr)


def test_a_schedule_of_one_s_own_is_given_rate_and_length():
    cfg = configs.optimizer(name="sgd", lr=0.4, schedule=f"{__name__}.half_way", schedule_args={"factor": 0.25})
    rate = optim.build(cfg, 6).rate
    np.testing.assert_allclose([rate(jnp.int32(t)) for t in range(6)], [0.4] * 3 + [0.1] * 3)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"name": "optax.lino"}, r"config\.optim\.main\.name: 'optax\.lino' cannot be imported"),
        ({"name": "no_such_package.lion"}, r"config\.optim\.main\.name: .* is its package installed\?"),
        (
            {"name": "optax.lion", "args": {"beta": 1}},
            r"config\.optim\.main\.args: optax\.lion .*'beta'; it takes .*b1",
        ),
        (
            {"name": "optax.lion", "args": {"learning_rate": 1.0}},
            r"args\.learning_rate: is given by config\.optim\.main\.lr",
        ),
        (
            {"name": "optax.lion", "weight_decay": 0.1},
            r"config\.optim\.main\.weight_decay: of the house's own optimisers",
        ),
        ({"name": "math.sqrt", "args": {"x": 2.0}}, r"math\.sqrt .*"),
        ({"schedule": "optax.no_schedule"}, r"config\.optim\.main\.schedule: 'optax\.no_schedule' cannot be imported"),
        ({"schedule": "optax.linear_schedule"}, r"config\.optim\.main\.schedule_args: .*missing.*end_value"),
        ({"name": "lion"}, r"is none of adamw"),
    ],
)
def test_a_wrong_name_or_argument_is_one_line(fields, line):
    with pytest.raises(InputError, match=line) as caught:
        optim.build(configs.optimizer(**fields), 10)
    assert "\n" not in str(caught.value)


def test_a_named_optimiser_passes_the_check_of_fields_and_json():
    c = configs.base()
    c.method = "none"
    c.optim.main = configs.optimizer(name="optax.lion", args={"b1": 0.8}, schedule_args={"alpha": 0.1})
    configs.check(c)
    back = configs.from_json(configs.to_json(c))
    configs.check(back)
    assert configs.digest(back) == configs.digest(c)
