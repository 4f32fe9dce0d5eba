"""SimCLR, classifiers and heads a width: what one update computes and moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core.state import flatten
from jaxvl.methods.slimclr import frameworks, losses
from jaxvl.methods.slimclr.method import build, model_config
from jaxvl.verbs import aot
from tests.methods import slimclr_small as small

PROBE = ("model.framework=probe", "model.head=supervised_switch", "model.dim=4", "model.inplace=mixed")


def parts(*overrides):
    """`(config, nets, params, mutables)` at the start."""
    cfg = small.config("model.slow_start=0.0", *overrides)
    fields = small.batch(0)["train"]
    if cfg.model.framework in frameworks.WITH_LABELS:
        fields = {"image": fields["view_a"], "label": np.arange(16) % 4}
    variables = jax.jit(build(cfg).init)(jax.random.key(0), {"train": fields})
    params = variables.pop("params")
    return cfg, frameworks.Nets.of(model_config(cfg)), params, variables, {"train": jax.tree.map(jnp.asarray, fields)}


def run(framework, made, batch=None):
    """The terms of both widths, compiled in one piece."""
    cfg, nets, params, mutables, own = made
    step = lambda p, m, b: tuple(framework(nets, cfg, p, m, b, jax.random.key(0), (0, 1)))  # noqa: E731
    return frameworks.Terms(*jax.jit(step)(params, mutables, own if batch is None else batch))


def test_simclr_is_its_equation_over_both_views():
    made = cfg, nets, params, mutables, batch = parts(*small.SIMCLR, "model.temperature=0.1")
    found = run(frameworks.simclr, made)

    @jax.jit
    def outputs(stats):
        by_width = []
        for i in (0, 1):
            rows = []
            for view in ("view_a", "view_b"):  # the second view sees the statistics that the first has moved
                z, stats = frameworks.encode(nets, params, stats, batch["train"][view], i)
                rows.append(losses.normalize(z))
            by_width.append(jnp.concatenate(rows))
        return by_width, stats

    assert cfg.model.distill_temperature == 5
    by_width, stats = outputs(mutables["batch_stats"])
    by_width = [np.asarray(z, np.float64) for z in by_width]
    sims = [z @ z.T for z in by_width]
    wanted = 0.0
    for r in range(32):
        others = np.delete(sims[0][r], r) / 0.1
        wanted += np.log(np.exp(others).sum()) - sims[0][r, (r + 16) % 32] / 0.1
    assert float(found.scalars["contrast_w100"]) == pytest.approx(wanted / 32, rel=1e-4)
    soft = lambda x: np.exp(x) / np.exp(x).sum()  # noqa: E731
    drop = lambda s, r: np.delete(s[r], r) / 5  # noqa: E731
    distill = 25 * np.mean([-(soft(drop(sims[0], r)) * np.log(soft(drop(sims[1], r)))).sum() for r in range(32)])
    assert float(found.scalars["distill_w050"]) == pytest.approx(distill, rel=1e-4)
    for a, b in zip(jax.tree.leaves(found.mutables["batch_stats"]), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_v3_is_symmetric_and_counts_its_terms():
    made = parts(*small.V3)
    views = made[-1]["train"]
    one = run(frameworks.moco_v3, made)
    other = run(frameworks.moco_v3, made, {"train": {"view_a": views["view_b"], "view_b": views["view_a"]}})
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    s = one.scalars
    assert float(one.losses[0]) == pytest.approx(1.5 * float(s["contrast_w100"]), rel=1e-6)
    assert float(one.losses[1]) == pytest.approx(0.5 * float(s["contrast_w050"] + s["distill_w050"]), rel=1e-6)


def test_probe_moves_classifiers_only_and_each_by_its_own_loss():
    cfg = small.config(*PROBE, "optim.main.weight_decay=0.1")
    states, scalars = small.run(cfg, 2)
    before, after = (flatten(s.params) for s in (states[0], states[-1]))
    for path, value in after.items():
        same = np.array_equal(value, before[path])
        assert same != path.startswith("encoder/head/"), path
    for a, b in zip(*(jax.tree.leaves(s.mutables) for s in (states[0], states[-1])), strict=True):
        np.testing.assert_array_equal(a, b)
    assert scalars[0]["loss"] == pytest.approx(scalars[0]["loss_w100"] + scalars[0]["loss_w050"], rel=1e-6)
    config, nets, params, mutables, batch = parts(*PROBE)

    def term(p, k):
        return frameworks.probe(nets, config, p, mutables, batch, jax.random.key(0), (0, 1)).losses[k]

    for k, own in ((0, "fc_w100"), (1, "fc_w050")):
        grads = flatten(jax.jit(jax.grad(term), static_argnums=1)(params, k)["encoder"]["head"])
        assert {p.split("/")[0] for p, g in grads.items() if np.abs(g).max() > 0} == {own}


def test_mixed_labels_are_half_of_the_teacher():
    made = cfg, nets, params, mutables, batch = parts(*PROBE)
    assert cfg.model.inplace == "mixed"
    variables = {"params": params["encoder"], "batch_stats": mutables["batch_stats"]["encoder"]}
    logits_of = jax.jit(lambda x: [nets.encoder.apply(variables, x, False, i)[1] for i in (0, 1)])
    logits = [np.asarray(o, float) for o in logits_of(batch["train"]["image"])]
    log_p = [o - np.log(np.exp(o).sum(1, keepdims=True)) for o in logits]
    labels = np.asarray(batch["train"]["label"])
    hard = [-p[np.arange(16), labels].mean() for p in log_p]
    soft = -(np.exp(log_p[0]) * log_p[1]).sum(1).mean()
    found = run(frameworks.probe, made).losses
    np.testing.assert_allclose(found, [hard[0], 0.5 * (soft + hard[1])], rtol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.head=mocov2_switch",),
        ("model.distill=dkd", "model.full_distill=true", "model.widths=(1.0,0.75,0.5)"),
        ("model.overlap=false", "model.distill=mse_features"),
        ("model.framework=supervised", "model.head=supervised", "model.dim=4", "model.inplace=distill"),
    ],
    ids=["switch", "full_distill", "disjoint", "supervised"],
)
def test_variants_train(overrides):
    cfg = small.config("model.slow_start=0.0", "model.momentum=1.0", *overrides)
    _, scalars = small.run(cfg, 6, seeds=[0] * 6)
    values = [s["loss"] for s in scalars]
    assert all(np.isfinite(values))
    assert scalars[0]["grad_norm"] > 0
    if cfg.model.framework == "supervised":
        assert values[-1] < values[0]


def test_keys_in_mixed_order_are_shared_by_the_devices():
    """A permutation of rows that are spread over devices is a gather, whose result the partitioner would put on each of
    them, and the whole momentum encoder with it: 2.6 times the products on eight devices, 4.8 on sixteen."""
    config = configs.load("slimclr/patterns:slim", ("model.bn_groups=8", "mesh.data=-1"))
    (update,) = aot.aot(config, "cpu:8", objectives=["full"], also="none")["programs"]
    assert update["flops"]["ratio"] == pytest.approx(1, abs=0.1)
