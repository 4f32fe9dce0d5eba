"""Every config of the project builds, at its full size, and gives the config and parameter tree that are committed."""

from __future__ import annotations

import jax
import pytest

from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core import state as states
from jaxvl.core.step import build_update
from tests import golden_update as golden


@pytest.mark.parametrize("method", sorted({f.parent.name for f in golden.distinct_files()}))
def test_updates_keep_the_state_s_shapes(method):
    """Traced once for each set of names in the state and of streams: files that differ in sizes alone share them."""
    traced = set()
    for file in (f for f in golden.distinct_files() if f.parent.name == method):
        config = configs.with_length(configs.load(file), configs.NOMINAL_EPOCH)
        built = session.build_method(config)
        assert built.name == config.method == method
        state = golden.abstract_state(config, built)
        cells = states.build_cells(built, state.params, config)
        for name, objective in built.objectives.items():
            batch = {s: built.batch_spec[s] for s in objective.streams}
            names = frozenset(
                jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path((state, batch))
            )
            if (name, names) in traced:
                continue
            traced.add((name, names))
            after, scalars = jax.eval_shape(build_update(built, name, config, cells), state, batch)
            assert shapes(after) == shapes(state), file
            assert scalars["loss"].shape == ()
    assert traced


def shapes(tree):
    """Shape and dtype of every leaf."""
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("experiment", golden.experiments(), ids=lambda e: e.golden)
def test_config_builds_and_is_as_committed(experiment):
    path = golden.path_of(experiment.golden)
    assert path.is_file(), f"{path} is absent: python -m tests.golden_update"
    changed = golden.differences(golden.committed(experiment.golden), golden.describe(experiment))
    assert not changed, "python -m tests.golden_update, if this is meant: " + "; ".join(changed[:5])


def test_no_golden_file_is_left_over():
    assert golden.left_over({e.golden for e in golden.experiments()}) == []
