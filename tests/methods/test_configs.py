"""Every config of the project builds, at its full size, and gives the config and parameter tree that are committed."""

from __future__ import annotations

import jax
import pytest

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core import state as states
from jaxvl.core.step import build_update
from tests import golden_update as golden


@pytest.mark.parametrize("file", golden.distinct_files(), ids=lambda f: f"{f.parent.name}.{f.stem}")
def test_update_of_a_config_keeps_the_state_s_shapes(file):
    config = configs.with_length(configs.load(file), configs.NOMINAL_EPOCH)
    assert config.method == file.parent.name
    method = session.build_method(config)
    state = golden.abstract_state(config, method)
    cells = states.build_cells(method, state.params, config)
    for name, objective in method.objectives.items():
        batch = {s: method.batch_spec[s] for s in objective.streams}
        after, scalars = jax.eval_shape(build_update(method, name, config, cells), state, batch)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        assert scalars["loss"].shape == ()


@pytest.mark.parametrize("experiment", golden.experiments(), ids=lambda e: e.golden)
def test_config_builds_and_is_as_committed(experiment):
    path = golden.path_of(experiment.golden)
    assert path.is_file(), f"{path} is absent: python -m tests.golden_update"
    changed = golden.differences(golden.committed(experiment.golden), golden.describe(experiment))
    assert not changed, "python -m tests.golden_update, if this is meant: " + "; ".join(changed[:5])


def test_no_golden_file_is_left_over():
    assert golden.left_over({e.golden for e in golden.experiments()}) == []
