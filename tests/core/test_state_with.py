"""A state that begins with given weights: laid in shard by shard, by bytes that are counted."""

import dataclasses
import tracemalloc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import session, sharding
from jaxvl.core import state as states
from jaxvl.interop import weights
from jaxvl.verbs import train
from tests import tiny, toys

LEAVES, SIDE = 8, 512
BYTES = 4 * SIDE * SIDE
HEAD = "head/kernel"


def init(rng, batch):
    del batch
    keys = jax.random.split(rng, LEAVES + 1)
    params = {f"block{i}": {"kernel": jax.random.normal(keys[i], (SIDE, SIDE))} for i in range(LEAVES)}
    return {"params": {**params, "head": {"kernel": jax.random.normal(keys[-1], (SIDE, 16))}}, "key": params}


@pytest.fixture(scope="module")
def compiled():
    config = toys.toy_config(ema=0.9)
    config.mesh.update({"data": 1, "fsdp": 8})
    return session.compile_method(config, dataclasses.replace(toys.contrastive(), init=init))


@pytest.fixture(scope="module")
def flat():
    rng = np.random.default_rng(4)
    return {f"block{i}/kernel": rng.normal(size=(SIDE, SIDE)).astype(np.float32) for i in range(LEAVES)}


def adopt(config, variables, flat, info):
    """All but the head, which starts fresh; the key encoder begins as a copy."""
    out = weights.merge_variables(
        {"params": variables["params"]}, flat, allow_missing=["head/.*"], source=config.init.weights
    )
    return {**out, "key": {name: leaf for name, leaf in out["params"].items() if name != "head"}}


def held(device):
    """Bytes of all arrays on a device."""
    shards = [s.data for x in jax.live_arrays() for s in x.addressable_shards if s.device == device]
    return sum({s.unsafe_buffer_pointer(): s.nbytes for s in shards}.values())  # a shard is an array, too


def test_no_device_and_no_host_holds_the_whole(compiled, flat, monkeypatch, tmp_path):
    weights.save_weights(tmp_path / "w", flat, {"source": "a test"})
    config = compiled.config.copy_and_resolve_references()
    config.init.weights = str(tmp_path / "w")
    monkeypatch.setattr(train.registry, "module", lambda *_: types.SimpleNamespace(adopt=adopt))
    last, seen = jax.devices()[-1], []

    def counted(*args, lay_in=sharding.lay_in):
        placed = jax.block_until_ready(lay_in(*args))
        seen.append(held(last))
        return placed

    train._first_state(config, compiled, tiny.quiet)  # what is compiled and imported stays
    monkeypatch.setattr(sharding, "lay_in", counted)
    before = held(last)
    tracemalloc.start()
    state = train._first_state(config, compiled, tiny.quiet)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(seen) == 2 * LEAVES
    assert max(seen) - before <= 2 * LEAVES * BYTES / 8  # params and key, an eighth of each
    assert peak < BYTES  # the host has views of the file alone
    for name, leaf in state.params.items():
        assert leaf["kernel"].sharding == compiled.shardings.params[name]["kernel"]
        assert leaf["kernel"].addressable_shards[0].data.nbytes in (BYTES // 8, SIDE * 16 * 4)
        np.testing.assert_array_equal(leaf["kernel"], state.ema[name]["kernel"])
    for path, value in flat.items():
        np.testing.assert_array_equal(states.flatten(state.params)[path], value)
        np.testing.assert_array_equal(states.flatten(state.mutables)[f"key/{path}"], value)


def test_what_is_not_given_is_as_in_a_fresh_state(compiled, flat):
    fresh = compiled.fresh_state()
    target = {"params": compiled.target.params, **compiled.target.mutables}
    some = {path: value for path, value in flat.items() if path != "block0/kernel"}
    params = weights.merge_weights(target["params"], some, allow_missing=["head/.*", "block0/.*"])
    state = compiled.state_with({"params": params, "key": {n: x for n, x in params.items() if n != "head"}})
    np.testing.assert_array_equal(state.params["head"]["kernel"], fresh.params["head"]["kernel"])
    np.testing.assert_array_equal(state.params["block0"]["kernel"], fresh.params["block0"]["kernel"])
    np.testing.assert_array_equal(state.mutables["key"]["block0"]["kernel"], fresh.params["block0"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    np.testing.assert_array_equal(jax.random.key_data(state.rng), jax.random.key_data(fresh.rng))
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, fresh)


def test_arrays_on_devices_move_and_are_shared_by_nobody(compiled, flat):
    """Weights that come from a checkpoint. One that two parameters begin with is copied: a step gives both away."""
    placed = {path: jnp.asarray(value) for path, value in flat.items()}
    target = {"params": compiled.target.params, **compiled.target.mutables}
    state = compiled.state_with(adopt(compiled.config, target, placed, {}))
    own = states.flatten({"params": state.params, "key": state.mutables["key"]})
    for path, value in flat.items():
        np.testing.assert_array_equal(own[f"params/{path}"], value)
    places = [s.data.unsafe_buffer_pointer() for x in own.values() for s in x.addressable_shards]
    assert len(set(places)) == len(places)
