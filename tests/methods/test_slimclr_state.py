"""What SlimCLR's updates do to parameters, norms, queue and key encoder; and sharded runs against one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.core.state import flatten
from jaxvl.methods.slimclr import frameworks
from jaxvl.methods.slimclr.method import build, model_config, not_of_narrow_widths
from tests.methods import slimclr_small as small


@pytest.fixture(scope="module")
def slow():
    """Six updates, the first four of the full width alone, with a decay that would shrink what it reaches."""
    cfg = small.config("model.slow_start=0.4", "optim.main.weight_decay=0.1")
    return cfg, *small.run(cfg, 6)


def narrow(tree):
    return {k: v for k, v in flatten(tree).items() if not not_of_narrow_widths(k)}


def test_slow_start_leaves_the_narrow_norms_alone_to_the_bit(slow):
    _, states, _ = slow
    assert narrow(states[0].params)
    for name in ("params", "mutables"):
        before, after = narrow(getattr(states[0], name)), narrow(getattr(states[4], name))
        after = {k: v for k, v in after.items() if not k.startswith("key")}  # the key encoder averages equal values
        assert after
        for path, value in after.items():
            np.testing.assert_array_equal(value, before[path], err_msg=path)
    moved = narrow(states[6].params)
    assert all(np.abs(v - narrow(states[0].params)[k]).max() > 0 for k, v in moved.items())


def test_momentum_of_shared_weights_survives_the_end_of_the_slow_start(slow):
    _, states, _ = slow
    cells = states[4].opt_state
    assert sorted(cells) == ["main:all", "main:all+full"]
    shared = [x for x in jax.tree.leaves(cells["main:all+full"]) if np.ndim(x)]
    assert all(np.abs(x).max() > 0 for x in shared)
    assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(cells["main:all"]) if np.ndim(x))


def test_loss_is_that_of_the_full_width_before_and_the_weighted_sum_after(slow):
    cfg, _, scalars = slow
    assert scalars[3]["loss"] == pytest.approx(scalars[3]["contrast_w100"], rel=1e-6)
    assert "contrast_w050" not in scalars[3]
    s = scalars[5]
    wanted = 1.5 * s["contrast_w100"] + 0.5 * s["contrast_w050"] + 0.5 * s["distill_w050"]
    assert s["loss"] == pytest.approx(wanted, rel=1e-5)
    assert cfg.model.distill_weight == 0.5


def test_queue_holds_the_last_keys_in_their_place(slow):
    _, states, _ = slow
    queue = states[5].mutables["queue"]
    assert queue["pointer"] == 5 * 16 % 32
    np.testing.assert_allclose(np.linalg.norm(queue["keys"], axis=1), 1, rtol=1e-5)
    before = states[4].mutables["queue"]["keys"]
    np.testing.assert_array_equal(queue["keys"][16:], before[16:])  # update 5 wrote rows 0 to 15
    cfg = model_config(small.config())
    nets = frameworks.Nets.of(cfg)
    keys, _ = frameworks.keys_of(nets, states[4].mutables, jnp.asarray(small.batch(4)["train"]["view_b"]))
    np.testing.assert_allclose(queue["keys"][:16], keys, atol=1e-5)


def test_key_encoder_follows_with_the_momentum_and_its_own_statistics(slow):
    _, states, _ = slow
    before, after, online = states[2].mutables["key"], states[3].mutables["key"], states[3].params["encoder"]
    for a, b, c in zip(*(jax.tree.leaves(t) for t in (before, after, online)), strict=True):
        np.testing.assert_allclose(b, 0.9 * a + 0.1 * c, atol=1e-6)
    one, other = flatten(states[3].mutables["key_stats"]), flatten(states[3].mutables["batch_stats"]["encoder"])
    assert any(np.abs(one[k] - other[k]).max() > 1e-4 for k in one if "w100" in k)


def test_averaging_behind_the_update_gives_the_published_keys(slow):
    """Published order: average with the parameters before the update, then make keys. At step t both have averaged the
    parameters of steps 1 to t, as both networks are equal at the start."""
    _, states, _ = slow
    key = states[0].params["encoder"]
    for t in range(5):  # published: before the keys of step t
        key = jax.tree.map(lambda k, p: 0.9 * k + 0.1 * p, key, states[t].params["encoder"])
        for a, b in zip(jax.tree.leaves(key), jax.tree.leaves(states[t].mutables["key"]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("framework", [("model.bn_groups=8",), ("model.bn_groups=1",)], ids=str)
def test_eight_devices_train_like_one(framework):
    """Queue and keys replicated, batch statistics global or in groups. (MoCo v3 is the contract suite's.)"""
    cfg = small.config("model.slow_start=0.0", *framework)
    one, losses_one = small.run(cfg, 4)
    many, losses_many = small.run(cfg, 4, mesh={"data": 8})
    np.testing.assert_allclose([s["loss"] for s in losses_many], [s["loss"] for s in losses_one], rtol=2e-5)
    for (path, a), b in zip(flatten(one[-1].params).items(), flatten(many[-1].params).values(), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5, err_msg=path)
    queues = (s[-1].mutables["queue"]["keys"] for s in (one, many))
    np.testing.assert_allclose(*queues, atol=2e-5)


def test_keys_are_encoded_in_shuffled_groups_and_given_back_in_order():
    """Four groups of four rows, each with statistics of its own: as four calls on the shuffled rows."""
    cfg = small.config("model.bn_groups=4", "model.slow_start=0.0")
    alone = frameworks.Nets.of(model_config(small.config("model.bn_groups=1")))
    variables = jax.jit(build(cfg).init)(jax.random.key(0), small.batch(0))
    params, batch, rng = variables.pop("params"), jax.tree.map(jnp.asarray, small.batch(0)), jax.random.key(3)
    nets = frameworks.Nets.of(model_config(cfg))
    made = jax.jit(lambda b: frameworks.moco_v2(nets, cfg, params, variables, b, rng, (0,)).mutables)(batch)
    order = np.asarray(jax.random.permutation(rng, 16))
    assert (order != np.arange(16)).any()
    wanted = np.zeros((16, 8), np.float32)
    for rows in order.reshape(4, 4):
        wanted[rows] = frameworks.keys_of(alone, variables, batch["train"]["view_b"][rows])[0]
    np.testing.assert_allclose(made["queue"]["keys"][:16], wanted, atol=1e-5)


def test_gradients_of_a_width_stay_in_its_slice_and_its_norms():
    cfg = small.config("model.slow_start=0.0", "model.distill=none", "model.reweight=0")
    nets, method = frameworks.Nets.of(model_config(cfg)), build(cfg)
    variables = jax.jit(method.init)(jax.random.key(0), small.batch(0))
    params = variables.pop("params")
    batch = jax.tree.map(jnp.asarray, small.batch(0))

    def term(p):
        return frameworks.moco_v2(nets, cfg, p, variables, batch, jax.random.key(1), (0, 1)).losses[1]

    grads = flatten(jax.jit(jax.grad(term))(params))
    assert all(np.abs(g).max() == 0 for k, g in grads.items() if "_w100" in k)
    assert all(np.abs(g).max() > 0 for k, g in grads.items() if "_w050" in k)
    kernel = np.asarray(grads["encoder/trunk/conv2/kernel"])
    assert np.abs(kernel[:, :, :4, :8]).min() > 0
    assert np.abs(kernel[:, :, 4:]).max() == np.abs(kernel[..., 8:]).max() == 0


def test_without_remedies_the_loss_is_the_plain_sum():
    cfg = small.config("model.slow_start=0.0", "model.distill=none", "model.reweight=0")
    _, (s,) = small.run(cfg, 1)
    assert s["loss"] == pytest.approx(s["contrast_w100"] + s["contrast_w050"], rel=1e-6)


def test_analysis_measures_the_gradient_of_the_step():
    base = ("model.slow_start=0.0", "model.reweight=5")
    _, (seen,) = small.run(small.config(*base, "model.analyse_every=1"), 1)
    assert 0 < seen["gradient/share_w050"] < 1
    assert -1 <= seen["gradient/cosine_w100_w050"] <= 1
    full, part, rest = (seen[f"gradient/{k}"] for k in ("norm_w100", "norm_w050", "rest_over_w050"))
    assert rest == pytest.approx(np.sqrt(full**2 - part**2) / part, rel=1e-4)
    cfg = small.config(*base)
    method = build(cfg)
    state = session.compile_method(cfg).fresh_state()

    def loss(p):
        return method.objectives["all"].loss(p, state.mutables, jax.tree.map(jnp.asarray, small.batch(0)),
                                             jax.random.fold_in(state.rng, 0), 0)[0]  # fmt: skip

    with jax.default_matmul_precision("highest"):
        value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    grads = flatten(grads)
    assert seen["loss"] == pytest.approx(float(value), rel=1e-6)
    kernels = [np.asarray(g) for k, g in grads.items() if k.endswith("kernel")]
    assert full == pytest.approx(np.mean([np.linalg.norm(g) for g in kernels]), rel=1e-3)


def test_what_does_not_fit_is_refused():
    for item, line in (
        ("model.queue=40", "config.model.queue: 40 is no multiple of config.data.batch_size 16"),
        ("model.bn_groups=3", "config.model.bn_groups: 3 does not divide"),
        ("model.distill=kl", "config.model.distill: 'kl' is none of none, ce"),
        ("model.framework=byol", "config.model.framework: 'byol' is none of"),
        ("model.widths=(0.5,1.0)", r"must begin with 1\.0"),
        ("model.alone=0.3", r"config.model.alone: 0\.3 is none of the widths"),
        ("model.head=linear", "config.model.head: 'linear' is none of"),
        ("model.trunk=vit", "config.model.trunk: 'vit' is none of"),
        ("precision.remat=full", "config.precision.remat: 'full' would change nothing in config.model.trunk 'conv'"),
    ):
        with pytest.raises(InputError, match=line):
            build(small.config(item))
    with pytest.raises(InputError, match="SimCLR's distillation is on logits only"):
        build(small.config(*small.SIMCLR, "model.distill=mse_features"))


def test_alone_is_the_ordinary_network_of_that_size():
    cfg = model_config(small.config("model.alone=0.5"))
    assert (cfg.widths, cfg.conv_channels, cfg.hidden, cfg.dim) == ((1.0,), (4, 8), 8, 8)
    assert dataclasses.replace(cfg).names == ("w100",)
