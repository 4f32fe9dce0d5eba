from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.nn import convolution
from jaxvl.nn.convolution import SMALL_MAP, convolve, convolve_blocks, depthwise


def by_hand(x, kernel, stride, dilation):
    """The sum over windows, one output position at a time, in float64."""
    k = kernel.shape[0]
    reach = dilation * (k // 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    size = [-(-n // stride) for n in x.shape[1:3]]
    out = np.zeros((x.shape[0], *size, kernel.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = i * stride, j * stride
            window = padded[
                :, top : top + dilation * (k - 1) + 1 : dilation, left : left + dilation * (k - 1) + 1 : dilation
            ]
            out[:, i, j] = np.einsum("bhwi,hwio->bo", window, kernel)
    return out


CASES = [
    *((size, 3, stride, 1) for size in ((2, 2), (3, 4), (4, 5), (7, 6), (1, 1)) for stride in (1, 2)),
    ((5, 4), 3, 1, 2),
    ((9, 8), 3, 1, 2),
    ((5, 6), 1, 1, 1),
    ((5, 6), 1, 2, 1),
    ((9, 7), 7, 2, 1),
    ((6, 7), 5, 2, 1),
]


@pytest.mark.parametrize(("size", "k", "stride", "dilation"), CASES)
def test_every_form_is_the_same_convolution(size, k, stride, dilation):
    """Small maps (windows gathered on CPUs), large ones (native) and 1x1 kernels, against the sum over windows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    kernel = rng.normal(size=(k, k, 3, 5)).astype(np.float32)
    got = jax.jit(convolve, static_argnums=(2, 3))(x, kernel, stride, dilation)
    np.testing.assert_allclose(got, by_hand(x, kernel, stride, dilation), atol=2e-5)


@pytest.mark.parametrize("size", [(4, 4), (6, 6)])
def test_gradients_are_those_of_the_sum(size):
    """Finite differences would be as slow as weak: the convolution is linear in either argument, so the gradient of
    `<y, t>` must give back `<y, t>` against the argument itself."""
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(2, *size, 3)).astype(np.float32), rng.normal(size=(2, 2, 2, 4)).astype(np.float32)
    t = rng.normal(size=(2, size[0] // 2, size[1] // 2, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    gradient = jax.jit(jax.value_and_grad(lambda x, k: (convolve(x, k, 2) * t).sum(), (0, 1)))
    value, grads = jax.device_get(gradient(x, kernel))
    other = rng.normal(size=x.shape).astype(np.float32)
    np.testing.assert_allclose((grads[1] * kernel).sum(), value, rtol=1e-4)
    np.testing.assert_allclose((grads[0] * other).sum(), (by_hand(other, kernel, 2, 1) * t).sum(), rtol=1e-4)


def test_form_depends_on_platform_and_size():
    """Few cells: no convolution is left on a CPU, while a TPU still gets its own. Many cells: native everywhere."""
    kernel = jax.ShapeDtypeStruct((3, 3, 8, 8), np.float32)
    for side, convolutions in ((4, {"cpu": 0, "tpu": 1}), (5, {"cpu": 1, "tpu": 1})):
        assert (side**2 <= SMALL_MAP) == (convolutions["cpu"] == 0)
        traced = jax.jit(convolve).trace(jax.ShapeDtypeStruct((2, side, side, 8), np.float32), kernel)
        for platform, count in convolutions.items():
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert text.count("stablehlo.convolution") == count


@pytest.mark.parametrize(
    ("size", "k", "stride", "most"), [((6, 5), 3, 1, 20), ((8, 7), 3, 2, 16), ((9, 8), 7, 2, 10**6), ((7, 6), 3, 2, 1)]
)
def test_gradient_by_blocks_of_windows(size, k, stride, most, monkeypatch):
    """Of a large map, in one block and in several, against sums in float64; and that of the input."""
    monkeypatch.setattr(convolution, "MANY_WINDOWS", 0)
    monkeypatch.setattr(convolution, "SMALL_MAP", 0)
    monkeypatch.setattr(convolution, "BLOCK_CELLS", most)
    rng = np.random.default_rng(3)
    x, kernel = rng.normal(size=(2, *size, 3)).astype(np.float32), rng.normal(size=(k, k, 3, 5)).astype(np.float32)
    t = rng.normal(size=(2, *(-(-n // stride) for n in size), 5)).astype(np.float32)
    loss = lambda x, kernel: (convolve(x, kernel, stride) * t).sum()  # noqa: E731
    dx, dk = jax.device_get(jax.jit(jax.grad(loss, (0, 1)))(x, kernel))
    padded = np.pad(x.astype(np.float64), ((0, 0), (k // 2, k // 2 + 1), (k // 2, k // 2 + 1), (0, 0)))
    rows, columns = ([stride * m for m in range(n)] for n in t.shape[1:3])
    wanted = [
        np.einsum("bhwi,bhwo->io", padded[:, np.add(rows, i)][:, :, np.add(columns, j)], t) for i, j in np.ndindex(k, k)
    ]
    np.testing.assert_allclose(dk.reshape(k * k, 3, 5), wanted, rtol=1e-5, atol=1e-5)
    other = rng.normal(size=x.shape).astype(np.float32)
    np.testing.assert_allclose((dx * other).sum(), (by_hand(other, kernel, stride, 1) * t).sum(), rtol=1e-4)


def test_which_maps_are_large():
    """Not those whose windows are few, nor of half precision, nor dilated."""
    large = lambda *shape, dtype="float32": convolution._by_blocks(  # noqa: E731
        jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((3, 3, shape[-1], 8), dtype), shape[1] * shape[2]
    )
    assert large(6, 64, 64, 64)
    assert not large(6, 64, 64, 64, dtype="bfloat16")
    assert not large(6, 16, 16, 256)


def test_convolution_on_blocks_of_pixels_is_the_same():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, 12, 3)).astype(np.float32)
    kernel = rng.normal(size=(7, 7, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(convolve_blocks)(x, kernel), by_hand(x, kernel, 2, 1), atol=5e-5)
    with pytest.raises(InputError, match="takes even images and 7x7 kernels, not 15x12"):
        convolve_blocks(x[:, :15], kernel)


@pytest.mark.parametrize(("size", "stride"), [((8, 5), (2, 1)), ((7, 6), (2, 2)), ((16, 13), (1, 1)), ((1, 2), (2, 2))])
def test_depthwise_shifted_sums_are_the_grouped_convolution(size, stride):
    """Forward, and both gradients, which have a closed form of their own."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(3, *size, 4)).astype(np.float32), rng.normal(size=(3, 3, 1, 4)).astype(np.float32)

    def both(form):
        def value(x, kernel):
            y = form(x, kernel, stride)
            return (y**2).sum(), y

        return jax.jit(jax.grad(value, (0, 1), has_aux=True))(x, kernel)

    shifted, native = both(convolution._depthwise_shifted), both(convolution._depthwise_native)
    for a, b in zip(jax.tree.leaves(shifted), jax.tree.leaves(native), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    each = [by_hand(x[..., c : c + 1], kernel[..., c : c + 1], 1, 1)[..., 0] for c in range(4)]
    whole = np.stack(each, -1)[:, :: stride[0], :: stride[1]]
    np.testing.assert_allclose(jax.jit(depthwise, static_argnums=2)(x, kernel, stride), whole, rtol=1e-4, atol=1e-4)
