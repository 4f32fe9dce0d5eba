from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop.weights import INFO, WEIGHTS, load_weights, merge_variables, merge_weights, save_weights

FLAT = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1.5, np.float32)}


def model():
    return {"a": {"kernel": jnp.zeros((2, 3))}, "b": jnp.zeros(())}


def test_round_trip_with_running_statistics(tmp_path):
    stats = {"batch_stats/bn/mean": np.ones(3, np.float32)}
    save_weights(tmp_path / "w", FLAT | stats, {"family": "x", "collections": ["batch_stats"]})
    flat, info = load_weights(tmp_path / "w")
    assert info["family"] == "x"
    assert flat.keys() == FLAT.keys()
    np.testing.assert_array_equal(flat["a/kernel"], FLAT["a/kernel"])
    assert list(load_weights(tmp_path / "w", "batch_stats")[0]) == ["bn/mean"]


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no weights folder.*jaxvl convert"):
        load_weights(tmp_path)
    save_weights(tmp_path, FLAT, {"collections": []})
    (tmp_path / INFO).write_text('{"format": 99}')
    with pytest.raises(InputError, match="has format 99"):
        load_weights(tmp_path)
    (tmp_path / INFO).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_weights(tmp_path)
    for odd in ('"config": 3', '"collections": null', '"collections": [1]', '"semantics": []', '"sha256": 1'):
        (tmp_path / INFO).write_text('{"format": 1, ' + odd + "}")
        with pytest.raises(InputError, match=f"weights.json: damaged .{odd[1:6]}"):
            load_weights(tmp_path)
    (tmp_path / INFO).write_text("[1]")
    with pytest.raises(InputError, match="damaged"):
        load_weights(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(InputError, match="no weights folder"):
        load_weights(tmp_path)


def test_merge_replaces_every_leaf_and_keeps_dtypes():
    params = model()
    params["b"] = jnp.zeros((), jnp.bfloat16)
    merged = merge_weights(params, FLAT)
    np.testing.assert_array_equal(merged["a"]["kernel"], FLAT["a/kernel"])
    assert merged["b"].dtype == jnp.bfloat16
    assert float(merged["b"]) == 1.5
    assert float(params["b"]) == 0  # the input is left alone


def test_merge_lists_both_sides():
    params = model() | {"head": {"w": jnp.ones(2)}}
    flat = FLAT | {"extra/w": np.ones(1), "b": np.ones(3)}
    with pytest.raises(InputError) as caught:
        merge_weights(params, flat, source="DIR")
    assert str(caught.value) == (
        "DIR: do not fit the model; in the model only (1): head/w; in the weights only (1): extra/w; "
        "of another shape (1): b [3] for []"
    )


def test_merge_allows_by_name_only():
    params = model() | {"head": {"w": jnp.ones(2)}, "header": jnp.ones(2)}
    with pytest.raises(InputError, match=r"in the model only \(1\): header$"):
        merge_weights(params, FLAT, allow_missing=["head/.*"])
    merged = merge_weights(params, FLAT, allow_missing=["head.*"])
    np.testing.assert_array_equal(merged["head"]["w"], 1)
    extra = FLAT | {"old/w": np.ones(1)}
    assert merge_weights(model(), extra, allow_unexpected=["old/w"]).keys() == {"a", "b"}


def test_collections_are_merged_beside_the_parameters():
    """Running statistics come with the weights; what only the fresh state has stays by permission alone."""
    fresh = {
        "params": {"bn": {"scale": np.zeros(2, np.float32)}},
        "batch_stats": {"bn": {"mean": np.zeros(2, np.float32)}},
        "queue": {"keys": np.ones(3, np.float32)},
    }
    flat = {"bn/scale": np.full(2, 4.0), "batch_stats/bn/mean": np.full(2, 5.0)}
    with pytest.raises(InputError, match=r"in the model only \(1\): queue/keys"):
        merge_variables(fresh, flat)
    merged = merge_variables(fresh, flat, allow_missing=["queue/.*"])
    assert merged["params"]["bn"]["scale"].tolist() == [4, 4]
    assert merged["batch_stats"]["bn"]["mean"].tolist() == [5, 5]
    assert merged["queue"]["keys"].tolist() == [1, 1, 1]
