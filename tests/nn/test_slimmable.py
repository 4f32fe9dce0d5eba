from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.nn.slimmable import SlimConv, SlimDense, channels, check_widths, width_name

WIDTHS = (1.0, 0.75, 0.5, 0.25)


def test_channels_of_the_published_widths():
    assert [channels(64, WIDTHS, i).stop for i in range(4)] == [64, 48, 32, 16]
    assert [channels(2048, WIDTHS, i) for i in (0, 3)] == [slice(0, 2048), slice(0, 512)]


def test_channels_side_by_side():
    spread = [channels(128, (1.0, 0.5, 0.25), i, overlap=False) for i in range(3)]
    assert spread == [slice(0, 128), slice(32, 96), slice(0, 32)]
    with pytest.raises(InputError, match="they need more than the 128 channels"):
        channels(128, (1.0, 0.75, 0.5), 1, overlap=False)


@pytest.mark.parametrize("widths", [(), (0.5,), (1.0, 0.5, 0.75), (1.0, 0.0), (1.0, 1.0)])
def test_widths_must_descend_from_one(widths):
    with pytest.raises(InputError, match=r"must begin with 1\.0 and descend"):
        check_widths(widths)


def test_names_tell_widths_apart():
    assert [width_name("bn1", WIDTHS, i) for i in range(4)] == ["bn1_w100", "bn1_w075", "bn1_w050", "bn1_w025"]
    assert width_name("bn1", (1.0,), 0) == "bn1"


@pytest.mark.parametrize("index", range(4))
def test_a_width_reads_and_moves_its_slice_only(index):
    conv = SlimConv(16, 32, 3, widths=WIDTHS)
    dense = SlimDense(32, 10, slice_out=False, widths=WIDTHS)
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, channels(16, WIDTHS, index).stop))
    full = jnp.zeros((1, 5, 5, 16))
    params = {
        "conv": jax.jit(conv.init)(jax.random.key(1), full),
        "dense": jax.jit(dense.init)(jax.random.key(2), jnp.zeros((1, 32))),
    }

    @jax.jit
    def run(params):
        return dense.apply(params["dense"], conv.apply(params["conv"], x, index).mean((1, 2)), index)

    rows, columns = channels(16, WIDTHS, index), channels(32, WIDTHS, index)
    outside = jax.tree.map(lambda p: np.full(p.shape, np.nan, np.float32), params)
    kernel, weights = outside["conv"]["params"]["kernel"], outside["dense"]["params"]["kernel"]
    kernel[:, :, rows, columns] = params["conv"]["params"]["kernel"][:, :, rows, columns]
    weights[columns] = params["dense"]["params"]["kernel"][columns]
    outside["dense"]["params"]["bias"] = params["dense"]["params"]["bias"]
    np.testing.assert_array_equal(run(params), run(outside))
    grads = jax.jit(jax.grad(lambda p: (run(p) ** 2).sum()))(params)
    moved = np.array(grads["conv"]["params"]["kernel"])
    assert np.abs(moved[:, :, rows, columns]).min() > 0
    moved[:, :, rows, columns] = 0
    np.testing.assert_array_equal(moved, 0)


def test_kernels_start_by_the_fan_out_of_the_full_width():
    conv = SlimConv(64, 128, 3, widths=WIDTHS)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 5, 5, 64)))["params"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    assert float(jnp.abs(kernel).max()) > 3.5 * float(kernel.std())  # not truncated
