"""DRDR's network and step: published counts, two passes of batch norm, what is left out of the compiled step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core import state as states
from jaxvl.core.errors import InputError
from jaxvl.methods.drdr import losses, recipe, structure
from jaxvl.methods.drdr.method import model_config
from jaxvl.methods.drdr.model import DRDR, DRDRConfig
from jaxvl.verbs import aot
from tests.methods.tiny import TINY


def count(**fields):
    model = DRDR(DRDRConfig(**fields))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)["params"]
    return sum(x.size for x in jax.tree.leaves(params))


def test_published_counts():
    assert count(classes=31) == 24_106_079
    assert count(classes=65) == 24_114_817
    assert count(classes=10) == 24_100_682
    assert count(classes=345, features=512) == 24_996_249
    assert count(classes=31) - count(classes=31, stiefel=False) == 256 * 256


def test_xavier_start_zero_biases_and_the_identity():
    model = DRDR(DRDRConfig(classes=10, trunk="none"))
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0), np.ones((1, 512), np.float32)))["params"]
    np.testing.assert_array_equal(params["stiefel"]["kernel"], np.eye(256))
    for name, fans in (("bottleneck", 512 + 256), ("fc", 256 + 10)):
        assert np.abs(params[name]["bias"]).max() == 0
        assert float(params[name]["kernel"].std()) == pytest.approx(np.sqrt(2 / fans), rel=0.05)
    assert np.abs(params["bottleneck"]["kernel"]).max() > 2.5 * np.sqrt(2 / 768)  # not truncated


@pytest.fixture(scope="module")
def bench():
    """`(config, batch, variables)` of the tiny method."""
    tiny = TINY["drdr"]()
    method = session.build_method(tiny.config)
    variables = jax.jit(method.init)(jax.random.key(0), tiny.batch(0))
    return tiny.config, tiny.batch(0), jax.tree.map(np.asarray, variables)


def loss_of(config, batch, variables, steps=(50,)):
    """`(loss, aux, gradient)` at each of `steps`, compiled once; of the only one by itself."""
    method = session.build_method(config)
    objective = method.objectives["adapt"]
    mutables = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def run(params, step):
        return jax.value_and_grad(lambda p: objective.value(p, mutables, batch, jax.random.key(1), step), has_aux=True)(
            params
        )

    found = [jax.device_get(run(variables["params"], np.int32(step))) for step in steps]
    found = [(float(loss), aux, grads) for (loss, aux), grads in found]
    return found if len(found) > 1 else found[0]


def changed(config, *overrides):
    return configs.apply(configs.from_json(configs.to_json(config)), overrides)


def test_total_is_the_weighted_sum_of_its_terms(bench):
    config, batch, variables = bench
    loss, aux, _ = loss_of(config, batch, variables)
    s, w = {k: float(v) for k, v in aux.scalars.items()}, config.model.weights
    q = 2 / (1 + np.exp(-10 * 51 / 100)) - 1
    assert s["ramp"] == pytest.approx(q, rel=1e-6)
    rest = sum(w[name] * s[name] for name in ("translation", "distance", "angular", "transport", "consensus"))
    assert loss == pytest.approx(s["classification"] + q * rest, rel=1e-5)
    for name in ("transport", "consensus"):
        assert s[f"{name}/source"] + s[f"{name}/target"] == pytest.approx(s[name], rel=1e-6)
        assert s[f"{name}/source"] != s[f"{name}/target"]
    assert s["transport_converged/source"] == s["transport_converged/target"] == 1
    assert s["orthogonality_error"] == 0


def test_burn_in_leaves_translation_alone(bench):
    config, batch, variables = bench
    early = changed(config, "model.burn_in=0.6", "model.weights.transport=0.0")
    (loss, aux, _), (later, _, _) = loss_of(early, batch, variables, steps=(58, 59))  # updates 59 and 60 of 100
    s = {k: float(v) for k, v in aux.scalars.items()}
    only = s["classification"] + s["ramp"] * config.model.weights.translation * s["translation"]
    assert loss == pytest.approx(only, rel=1e-5)
    assert later > only * 1.01


def test_anchors_and_batch_statistics_are_the_ones_of_two_passes(bench):
    """Source first, then target with the source's running statistics; target features are turned before the anchors."""
    config, batch, variables = bench
    plain = changed(config, "model.weights.transport=0.0")
    _, aux, _ = loss_of(plain, batch, variables)
    model = DRDR(model_config(config))
    stats, features = variables["batch_stats"], {}
    encode = jax.jit(lambda v, x: model.apply(v, x, train=True, method=DRDR.encode, mutable=["batch_stats"]))
    for side in ("source", "target"):
        found = encode({"params": variables["params"], "batch_stats": stats}, batch[side]["images"])
        features[side], new = jax.device_get(found)
        stats = new["batch_stats"]
    for got, want in zip(jax.tree.leaves(aux.mutables["batch_stats"]), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
    for i, side in enumerate(("source", "target")):
        np.testing.assert_allclose(aux.mutables["radial"]["centre"][i], 0.3 * features[side].mean(0), atol=1e-6)
    labels = batch["source"]["label"]
    np.testing.assert_allclose(
        aux.mutables["radial"]["local"][0, 2], 0.3 * features["source"][labels == 2].mean(0), atol=1e-6
    )


def test_terms_of_weight_zero_are_not_compiled(bench):
    config, batch, variables = bench

    def text(*overrides):
        method = session.build_method(changed(config, *overrides))
        mutables = {k: v for k, v in variables.items() if k != "params"}
        loss = lambda p: method.objectives["adapt"].loss(p, mutables, batch, jax.random.key(0), jnp.int32(5))[0]  # noqa: E731
        return jax.jit(loss).lower(variables["params"]).as_text()

    assert "while" in text()
    assert "while" not in text("model.weights.transport=0.0")


def test_source_only_reads_no_target_and_leaves_the_layer_alone(bench):
    config, batch, variables = bench
    plain = recipe.source_only(changed(config))
    method = session.build_method(plain)
    assert list(method.batch_spec) == ["source"]
    assert not method.objectives["adapt"].trains_path("stiefel/kernel")
    loss, aux, grads = loss_of(plain, {"source": batch["source"]}, variables)
    assert loss == pytest.approx(float(aux.scalars.get("classification", loss)))
    assert np.abs(grads["stiefel"]["kernel"]).max() == 0


def test_annealed_transport_and_published_variant_run(bench):
    config, batch, variables = bench
    loss, aux, grads = loss_of(recipe.as_published(changed(config)), batch, variables)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert "transport_converged/source" not in aux.scalars
    method = session.build_method(recipe.as_published(changed(config)))
    assert not method.objectives["adapt"].trains_path("fc/kernel")


def test_leave_one_out_has_a_structure_a_domain_and_no_target(bench):
    config, batch, variables = bench
    config = changed(config, "data.task=a/b/c->", "data.external=d", "model.weights.transport=0.0",
                     "model.weights.consensus=0.0")  # fmt: skip
    method = session.build_method(config)
    assert list(method.batch_spec) == ["source"]
    state = states.abstract_state(method, config)
    assert state.mutables["radial"]["local"].shape == (3, 4, 8)
    variables = {**variables, "radial": {"centre": np.zeros((3, 8)), "local": np.zeros((3, 4, 8))}}
    loss, aux, grads = loss_of(config, {"source": batch["source"]}, variables)
    assert np.isfinite(loss)
    assert np.abs(grads["stiefel"]["kernel"]).max() > 0
    centres = aux.mutables["radial"]["centre"]
    assert len({round(float(c[0]), 5) for c in centres}) == 3


@pytest.mark.parametrize(
    "overrides",
    [(), ("model.absent_class=keep",), ("model.trunk=resnet", "model.depth=18", "model.width=4")],
    ids=str,
)
def test_leave_one_out_is_a_pass_of_each_domain(bench, overrides):
    """Loss, state and gradients are those of the trunk run on one domain after another, each with its own batch
    statistics, and of the objective written out."""
    rng = np.random.default_rng(7)
    draws = rng.integers(0, 256, (13, 2, 2, 3), dtype=np.uint8)
    images = draws.repeat(32, 1).repeat(32, 2)
    batch = {"source": {"images": images, "label": np.arange(13, dtype=np.int32) % 4}}
    config = changed(
        bench[0], "data.task=a/b/c->", "data.external=d", "data.image_size=64", "data.batch_size=13",
        "model.mean=(0.5,0.4,0.3)", "model.std=(0.2,0.3,0.4)", "model.weights.transport=0.0",
        "model.weights.consensus=0.0", *overrides,
    )  # fmt: skip
    variables = jax.device_get(jax.jit(session.build_method(config).init)(jax.random.key(3), batch))
    variables["radial"] = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), variables["radial"])
    model, m, weight = DRDR(model_config(config)), config.model, config.model.weights

    def loss(params):
        stats, z, now, labels = variables["batch_stats"], [], [], jnp.split(batch["source"]["label"], (5, 9))
        for i, part in enumerate(jnp.split(images, (5, 9))):
            own, new = model.apply(
                {"params": params, "batch_stats": stats}, part, True, method=DRDR.encode, mutable=["batch_stats"]
            )
            own, stats = own @ params["stiefel"]["kernel"] if i else own, new["batch_stats"]
            old = structure.Structure(variables["radial"]["centre"][i], variables["radial"]["local"][i])
            now.append(structure.momentum(old, own, labels[i], m.theta, m.absent_class))
            z.append(own)
        logits = jnp.concatenate(z) @ params["fc"]["kernel"] + params["fc"]["bias"]
        chosen = jax.nn.log_softmax(m.gamma * logits)[jnp.arange(13), batch["source"]["label"]]
        matched = sum(
            weight.translation * losses.translation(a, b)
            + weight.distance * losses.distance(a, b)
            + weight.angular * losses.angular(a, b, mask=m.spoke_mask)
            for a, b in itertools.combinations(now, 2)
        )
        total = -weight.classification * chosen.mean() + losses.ramp(51, config.train.steps) * matched / 3
        radial = {"centre": jnp.stack([s.centre for s in now]), "local": jnp.stack([s.local for s in now])}
        return total, {"batch_stats": stats, "radial": radial}

    with jax.default_matmul_precision("highest"):
        found = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        (value, mutables), slope = jax.device_get(found)
        found, aux, grads = loss_of(config, batch, variables)
    assert found == pytest.approx(float(value), rel=1e-6)
    for got, want, error in ((aux.mutables, mutables, 5e-6), (grads, slope, 3e-5)):  # float32's; in float64, 1e-12
        for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert np.linalg.norm(a - b) <= error * np.linalg.norm(b)


def test_leave_one_out_moves_no_image_between_devices(bench):
    """Uneven rows of the domains lie evenly on the devices: what is exchanged is features, statistics and gradients."""
    config = changed(bench[0], "data.task=a/b/c->", "data.external=d", "model.weights.transport=0.0",
                     "model.weights.consensus=0.0", "data.batch_size=64", "data.image_size=16")  # fmt: skip
    (update,) = aot.aot(config, "cpu:8", objectives=["adapt"], also="none")["programs"]
    assert update["flops"]["ratio"] < 1.2  # the head is computed on every device; a pass of each domain has 4.5
    kinds = {row["kind"] for row in update["collectives"]}
    assert kinds <= {"all-reduce", "all-gather"}
    assert max(row["bytes"] for row in update["collectives"]) < 64 * 16 * 16


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.consensus=papre", "config.model.consensus: 'papre' is none of paper, code"),
        ("model.ot.mode=exact", "config.model.ot.mode: 'exact' is none of ott, annealed"),
        ("model.trunk=vit", "config.model.trunk: 'vit' is none of resnet, conv, none"),
        ("precision.remat=full", "config.precision.remat: 'full' would change nothing in config.model.trunk 'conv'"),
        ("model.std=(0.5,0.5)", "config.model.mean: has 1 channels, config.model.std 2"),
        ("data.task=mnist5k", "config.data.task: 'mnist5k' is not like SOURCE->TARGET"),
    ],
)
def test_wrong_fields_are_named(bench, override, line):
    with pytest.raises(InputError) as error:
        session.build_method(changed(bench[0], override))
    assert line in str(error.value)


def test_the_small_trunk_may_end_in_the_mean_of_its_map():
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    nets = {pool: DRDR(DRDRConfig(classes=3, trunk="conv", features=8, pool=pool)) for pool in ("flatten", "mean")}
    made = {pool: jax.device_get(jax.jit(net.init)(jax.random.key(0), images)) for pool, net in nets.items()}
    assert made["flatten"]["params"]["bottleneck"]["kernel"].shape == (3 * 3 * 32, 8)
    assert made["mean"]["params"]["bottleneck"]["kernel"].shape == (32, 8)
    # The mean of nine places is the sum over the places, each with a ninth of the kernel.
    kernel = np.tile(made["mean"]["params"]["bottleneck"]["kernel"] / 9, (9, 1))
    params = {**made["mean"]["params"], "bottleneck": {**made["mean"]["params"]["bottleneck"], "kernel": kernel}}
    mean = jax.jit(nets["mean"].apply)(made["mean"], images)
    flat = jax.jit(nets["flatten"].apply)({**made["mean"], "params": params}, images)
    np.testing.assert_allclose(flat, mean, atol=1e-5)
