import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxvl.core import session, sharding
from jaxvl.core import state as states
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Method, Objective
from tests import toys


def run(method, config, batches, devices=None):
    compiled = session.compile_method(config, method, devices)
    state = compiled.fresh_state()
    scalars = []
    for i, batch in enumerate(batches):
        placed = {s: sharding.put_batch(b, compiled.mesh) for s, b in batch.items()}
        state, values = compiled.updates[method.objective_at(i)](state, placed)
        scalars.append({k: np.asarray(v) for k, v in values.items()})
    return jax.device_get(state), scalars, compiled


@pytest.mark.parametrize(
    "mesh",
    [{"data": 8, "fsdp": 1, "tensor": 1}, {"data": 1, "fsdp": 8, "tensor": 1}, {"data": 2, "fsdp": 2, "tensor": 2}],
    ids=["data", "fsdp", "mixed"],
)
def test_eight_devices_equal_one_after_five_steps(mesh):
    config = toys.toy_config(clip_norm=0.5, ema=0.9)
    one, losses, _ = run(toys.contrastive(), config, toys.host_batches(5))
    config.mesh.update(mesh)
    method = toys.contrastive()
    if mesh["tensor"] > 1:
        with pytest.raises(InputError, match=r"config\.mesh\.tensor: 2, but toy has no partition rules"):
            session.compile_method(config, method)
        method = dataclasses.replace(method, partition_rules=((r"left/kernel$", P("tensor", None)),))
    many, sharded_losses, compiled = run(method, config, toys.host_batches(5))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params)):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    for a, b in zip(losses, sharded_losses):
        np.testing.assert_allclose(a["loss"], b["loss"], atol=1e-5, rtol=1e-5)
    kernel = compiled.shardings.params["left"]["kernel"]
    assert kernel.spec == P("tensor" if mesh["tensor"] > 1 else None, "fsdp" if mesh["fsdp"] > 1 else None)
    moment = jax.tree.leaves(compiled.shardings.opt_state, is_leaf=lambda x: hasattr(x, "spec"))
    assert kernel.spec in {m.spec for m in moment}  # moments live where their parameter lives


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_contrastive_gradient_equals_the_large_batch(parts):
    """Under plain SGD of rate 1, where parameters differ by just what the gradients do (Adam divides by their size)."""
    config = toys.toy_config()
    config.optim.main.update({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0})
    whole, losses, _ = run(toys.contrastive(), config, toys.host_batches(3))
    config.train.accumulate = parts
    pieces, micro_losses, _ = run(toys.contrastive(), config, toys.host_batches(3))
    for a, b in zip(losses, micro_losses):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(pieces.params)):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)


def test_accumulation_is_refused_where_it_would_not_be_exact():
    config = toys.toy_config(accumulate=2)
    with pytest.raises(InputError, match=r"config.train.accumulate.*compares examples"):
        session.compile_method(config, toys.contrastive(whole_loss=True))


def test_accumulated_mean_loss_equals_the_large_batch():
    def loss(params, mutables, batch, rng, step):
        out = jnp.tanh(batch["train"]["x"] @ params["left"]["kernel"]).sum(-1)
        return ((out - batch["train"]["y"].sum(-1)) ** 2).mean(), Aux()

    method = toys.contrastive()
    method = Method(
        "toy", method.batch_spec, method.init, {"mean": Objective(loss, per_example=True, trains="left/kernel")},
        method.predict,
    )  # fmt: skip
    config = toys.toy_config()
    whole, _, _ = run(method, config, toys.host_batches(2))
    config.train.accumulate = 4
    pieces, _, _ = run(method, config, toys.host_batches(2))
    np.testing.assert_allclose(whole.params["left"]["kernel"], pieces.params["left"]["kernel"], atol=1e-6)
    # and what the objective does not train is untouched to the bit
    first = session.compile_method(config, method).fresh_state()
    np.testing.assert_array_equal(pieces.params["right"]["kernel"], first.params["right"]["kernel"])


def alternating():
    def loss_of(side):
        def loss(params, mutables, batch, rng, step):
            return sum((v**2).sum() for k, v in params.items() if k in (side, "both")), Aux()

        return loss

    def init(rng, batch):
        return {"params": {k: jnp.ones((4, 4)) for k in ("left", "right", "both")}}

    return Method(
        "toy", {"train": toys.spec()}, init,
        {n: Objective(loss_of(n), trains=f"{n}|both") for n in ("left", "right")},
        predict=lambda v, b: {}, pick=lambda step: ("left", "right")[step % 2],
    )  # fmt: skip


def test_alternating_objectives_touch_only_what_they_train():
    config = toys.toy_config()
    _, _, compiled = run(alternating(), config, [])
    state = compiled.fresh_state()
    batch = {s: sharding.put_batch(b, compiled.mesh) for s, b in next(toys.host_batches(1)).items()}
    state, _ = compiled.updates["left"](state, batch)
    one = jax.device_get(state)
    assert (one.params["right"] == 1).all()
    assert (one.params["left"] < 1).all()
    counts = {cell: int(s[0].count) for cell, s in one.opt_state.items()}
    assert counts == {"main:left": 1, "main:right": 0, "main:left+right": 1}
    state, _ = compiled.updates["right"](state, batch)
    two = jax.device_get(state)
    np.testing.assert_array_equal(two.params["left"], one.params["left"])
    counts = {cell: int(s[0].count) for cell, s in two.opt_state.items()}
    assert counts == {"main:left": 1, "main:right": 1, "main:left+right": 2}


def test_state_is_frozen_from_the_first_bad_step_on():
    config = toys.toy_config()
    batches = list(toys.host_batches(4))
    good, _, _ = run(toys.contrastive(), config, batches[:2])
    batches[2]["train"]["x"][3] = np.nan
    state, scalars, _ = run(toys.contrastive(), config, batches)
    assert [int(s["bad_step"]) for s in scalars] == [-1, -1, 2, 2]
    assert int(state.step) == 4
    for a, b in zip(jax.tree.leaves(good.params), jax.tree.leaves(state.params)):
        np.testing.assert_array_equal(a, b)


def test_clipping_and_average_follow_their_definitions():
    config = toys.toy_config(clip_norm=1e-3, ema=0.5)
    config.optim.main.update({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0})
    start = session.compile_method(config, toys.contrastive()).fresh_state()
    before = jax.device_get(start.params)
    state, scalars, _ = run(toys.contrastive(), config, toys.host_batches(1))
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params))))
    assert float(scalars[0]["grad_norm"]) > 1e-3
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)
    np.testing.assert_allclose(
        state.ema["left"]["kernel"], (before["left"]["kernel"] + state.params["left"]["kernel"]) / 2, atol=1e-6
    )


def test_each_objective_compiles_once():
    config = toys.toy_config()
    _, _, compiled = run(alternating(), config, list(toys.host_batches(6)))
    assert [u.jitted._cache_size() for u in compiled.updates.values()] == [1, 1]


def test_optimizer_that_config_lacks_is_named():
    method = toys.contrastive()
    method = Method(
        "toy", method.batch_spec, method.init, {"a": Objective(encode=toys.encode, head=toys.head, optimizer="critic")},
        method.predict,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"config.optim.critic: absent"):
        states.build_cells(
            method, states.abstract_state(toys.contrastive(), toys.toy_config()).params, toys.toy_config()
        )


def test_mesh_that_does_not_divide_the_batch_is_named():
    config = toys.toy_config()
    config.mesh.data = 3
    with pytest.raises(InputError, match=r"batch size of stream 'train'.*16 is not divisible by the 3"):
        session.compile_method(config, toys.contrastive())


def test_parts_of_the_update_are_named_in_the_program():
    """So that a profile tells the optimiser from the loss; those of a loss are in the contract of every method."""
    compiled = session.compile_method(toys.toy_config(clip_norm=0.5, ema=0.9), toys.contrastive())
    (program,), (batch,) = compiled.updates.values(), toys.host_batches(1)
    text = program.lower(compiled.target, batch).as_text(debug_info=True)
    for part in ("gradient_norm", "optimizer", "average", "guard"):
        assert f"/{part}/" in text, part
