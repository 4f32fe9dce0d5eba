"""Programs are compiled before the first step, and kept where that is safe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxvl.core import session, sharding
from jaxvl.core.loop import CompileCounter
from jaxvl.core.memory import OutOfMemory
from jaxvl.core.programs import on_device
from tests import toys
from tests.core.test_step import alternating

FIELDS = {"x": ((toys.DIM,), "float64"), "y": ((toys.DIM,), "float32")}  # as numpy makes them


def test_nothing_compiles_once_all_is_compiled_ahead():
    compiled = session.compile_method(toys.toy_config(steps=4), toys.contrastive())
    state, said = compiled.fresh_state(), []
    batch = sharding.put_batch(next(toys.host_batches(1)), compiled.mesh)
    counter = CompileCounter.install()
    before = counter.count
    compiled.compile_ahead(0, [{"test": on_device(FIELDS, toys.BATCH)}], said.append)
    assert counter.count == before + 2
    assert said == ["compiling pair (1 of 2)", "compiling predict of test (2 of 2)"]
    state, scalars = compiled.updates["pair"](state, batch)
    state, _ = compiled.updates["pair"](state, batch)
    outputs = compiled.predict(state.variables(), {"test": batch["train"]})
    assert counter.count == before + 2
    assert np.isfinite(scalars["loss"])
    half = {"test": jax.tree.map(lambda x: x[:8], next(toys.host_batches(1))["train"])}
    other = compiled.predict(state.variables(), sharding.put_batch(half, compiled.mesh))["out"]
    assert counter.count == before + 3  # another shape is compiled when it comes
    np.testing.assert_allclose(other, outputs["out"][:8], rtol=1e-5)


def test_what_a_run_never_picks_is_not_compiled():
    said = []
    compiled = session.compile_method(toys.toy_config(steps=1), alternating())
    compiled.compile_ahead(0, [], said.append)
    assert len(said) == 1
    compiled.compile_ahead(1, [{"test": {}}], said.append)  # the run is at its end
    assert len(said) == 1
    session.compile_method(toys.toy_config(steps=2), alternating()).compile_ahead(0, [], said.append)
    assert [line.rsplit("(")[1] for line in said[1:]] == ["1 of 2)", "2 of 2)"]


PROGRAM = """
import json, sys, jax
from jaxvl.verbs import train
from tests import toys
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
for steps in (2, 3):
    jax.clear_caches()
    hits.clear()
    config = toys.toy_config(steps=steps, checkpoint_every=2)
    config.mesh.data = -1
    train.train(config, sys.argv[1], method=toys.contrastive(), data=toys.toy_data(), resume=True, pictures=False)
print(hits.count("/jax/compilation_cache/cache_hits"))
from jaxvl.core import programs
kept = jax.config.jax_compilation_cache_dir
programs.keep(sys.argv[2], move=False)
assert jax.config.jax_compilation_cache_dir == kept
programs.keep(sys.argv[2])
assert jax.config.jax_compilation_cache_dir.startswith(sys.argv[2])
programs.keep_for_all(sys.argv[1])
programs.keep(sys.argv[2])
assert jax.config.jax_compilation_cache_dir.startswith(sys.argv[1])
"""


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_goes_on_finds_its_programs_unless_they_span_cpus(tmp_path, devices):
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    env["XLA_FLAGS"] = env["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    env["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    call = [sys.executable, "-c", PROGRAM, str(tmp_path / "run"), str(tmp_path)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=True)
    kept = {p.name.split("-")[0] for p in (tmp_path / "run" / "cache").rglob("*-cache")}
    assert ("jit_on_mesh" in kept) == (devices == 1)
    if devices == 1:
        assert int(done.stdout.splitlines()[-1]) >= 2  # the update and `predict`


def test_what_does_not_fit_shows_before_the_first_step(monkeypatch):
    compiled = session.compile_method(toys.toy_config(steps=2), toys.contrastive())

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3221225472 bytes.")

    monkeypatch.setattr(compiled.updates["pair"], "compile", refuse)
    with pytest.raises(OutOfMemory, match=r"compiling pair; 3 GiB were needed.* config\.precision\.compute=bfloat16"):
        compiled.compile_ahead(0, [], lambda line: None)
