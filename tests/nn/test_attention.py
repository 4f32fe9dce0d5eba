"""Which implementation of attention is taken where, and what it is lowered to."""

from __future__ import annotations

import functools
import re
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from jaxvl.core.errors import InputError
from jaxvl.nn import attention
from jaxvl.nn.attention import dot_product_attention

KERNEL, PRODUCT = r"__cudnn\$fmha\w*", r"stablehlo\.dot_general"


@pytest.fixture
def gpu():
    """As a process with an NVIDIA GPU would see it, as far as a program is concerned."""
    version = SimpleNamespace(cudnn_get_version=lambda: 91000)
    with (
        mock.patch.object(attention, "_has_flash_attention", return_value=True),
        mock.patch.object(cudnn, "cuda_versions", version),
    ):
        yield


def tokens(length=6, width=8, dtype="bfloat16"):
    return np.random.default_rng(0).normal(size=(3, 2, length, 3, width)).astype(dtype)


def lowered(platform, *inputs, **options):
    """The program of a gradient."""
    function = functools.partial(dot_product_attention, **options)
    gradient = jax.jit(jax.grad(lambda *x: function(*x).astype(jnp.float32).sum(), (0, 1, 2)))
    return gradient.trace(*inputs).lower(lowering_platforms=(platform,)).as_text()


MASK = np.ones((2, 6), bool)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"key_mask": MASK, "implementation": "cudnn"}])
def test_cudnn_on_cuda_and_nowhere_else(gpu, options):
    text = lowered("cuda", *tokens(), **options)
    assert len(re.findall(KERNEL, text)) >= 2  # forward and backward
    assert not re.search(PRODUCT, text)
    for platform in ("cpu", "tpu"):
        text = lowered(platform, *tokens(), **options)
        assert not re.search(KERNEL, text)
        assert re.search(PRODUCT, text)


@pytest.mark.parametrize(
    ("inputs", "options", "why"),
    [
        (tokens(dtype="float32"), {}, "its inputs are float32"),
        (tokens(width=12), {}, "heads are 12 wide"),
        (tokens(width=136), {}, "heads are 136 wide"),
        (tokens(5), {}, "5 and 5 tokens"),
        (tokens(5), {"key_mask": np.ones((2, 5), bool)}, "5 and 5 tokens"),
        (tokens(), {"dropout": 0.5, "rng": jax.random.key(0)}, "dropout"),
    ],
)
def test_what_cudnn_cannot_compute_is_einsum_or_refused(gpu, inputs, options, why):
    assert not re.search(KERNEL, lowered("cuda", *inputs, **options))
    with pytest.raises(InputError, match=f"config.model.attention: 'cudnn' .*{why}"):
        dot_product_attention(*inputs, implementation="cudnn", **options)


@pytest.mark.parametrize(
    ("inputs", "options"), [(tokens(), {"key_mask": MASK}), ((tokens()[0][:, :2], *tokens()[1:]), {})]
)
def test_what_no_gpu_has_shown_is_einsum_unless_it_is_asked_for(gpu, inputs, options):
    assert not re.search(KERNEL, lowered("cuda", *inputs, **options))
    assert re.search(KERNEL, lowered("cuda", *inputs, implementation="cudnn", **options))


def test_without_a_gpu_cudnn_is_refused_and_auto_is_einsum():
    with pytest.raises(InputError, match="'cudnn' cannot be used: this process has no NVIDIA GPU"):
        dot_product_attention(*tokens(), implementation="cudnn")
    forms = (functools.partial(dot_product_attention, implementation=name) for name in ("auto", "einsum"))
    a, b = (jax.jit(form)(*tokens()) for form in forms)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("backend", "capability", "has"),
    [
        ("gpu", "8.0", True),
        ("gpu", "12.0", True),
        ("gpu", "7.5", False),
        ("gpu", "gfx90a", False),
        ("tpu", "9.0", False),
    ],
)
def test_which_gpus_have_it(backend, capability, has):
    device = SimpleNamespace(compute_capability=capability)
    with (
        mock.patch.object(jax, "default_backend", return_value=backend),
        mock.patch.object(jax, "local_devices", return_value=[device]),
    ):
        assert attention._has_flash_attention() is has


def with_gradients(function, inputs, dout):
    """The function's output and the gradients that `dout` gives its inputs."""

    @jax.jit
    def both(inputs, dout):
        out, back = jax.vjp(function, *inputs)
        return out, back(dout)

    return both(inputs, dout)


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_softmax_of_kept_logits_is_softmax(size):
    """In both directions, for masked logits, too; float64 is the arbiter."""
    rng = np.random.default_rng(1)
    x, dy = (rng.normal(size=(50, 9)) * s for s in (size, 1.0))
    x[:, -2:] = attention.MASKED_LOGIT
    y = np.exp(x - x.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    got, (dx,) = with_gradients(attention._softmax_of_logits, [np.float32(x)], np.float32(dy))
    np.testing.assert_allclose(got, y, atol=1e-6, rtol=4e-6)
    np.testing.assert_allclose(dx, y * (dy - (dy * y).sum(-1, keepdims=True)), atol=2e-6)


def exact(causal, q, k, v, dout):
    """Output and gradients in float64, by the chain rule written out."""
    logits = np.einsum("bqhd,bkhd->bhqk", q, k)
    if causal:
        logits = np.where(np.tril(np.ones(logits.shape[-2:], bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dweights = np.einsum("bqhd,bkhd->bhqk", dout, v)
    dlogits = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    by_queries = np.einsum("bhqk,bkhd->bqhd", dlogits, k)
    by_keys = np.einsum("bhqk,bqhd->bkhd", dlogits, q)
    return np.einsum("bhqk,bkhd->bqhd", weights, v), by_queries, by_keys, np.einsum("bhqk,bqhd->bkhd", weights, dout)


def of_both_forms(causal, arrays, dout):
    """What `_computed_anew` and the form that keeps its weights give, in float64."""
    forms = (
        functools.partial(attention._computed_anew, causal, "highest"),
        lambda q, k, v: attention.plain_attention(q, k, v, causal),  # here, on a CPU
    )
    found = []
    for form in forms:
        out, grads = with_gradients(form, arrays, dout)
        found.append([np.asarray(x, np.float64) for x in (out, *grads)])
    return found


@pytest.mark.parametrize(("queries", "size", "causal"), [(7, 1.0, False), (7, 4.0, True), (1, 1.0, False)])
def test_attention_that_computes_its_weights_anew_is_attention(queries, size, causal):
    rng = np.random.default_rng(2)
    shapes = [(3, n, 2, 8) for n in (queries, 7, 7, queries)]
    arrays = [np.float32(size * rng.normal(size=shape)) for shape in shapes]
    expected = exact(causal, *(np.asarray(x, np.float64) for x in arrays))
    anew, _ = of_both_forms(causal, arrays[:3], arrays[3])
    for got, right in zip(anew, expected, strict=True):
        np.testing.assert_allclose(got, right, atol=4e-6 * np.abs(right).max())


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_in_16_bits_it_is_as_exact_forward_and_a_percent_off_at_most_backward(size):
    """Logits of up to 16 a standard deviation. bfloat16 has 0.4 % between two numbers."""
    rng = np.random.default_rng(3)
    arrays = [(s * rng.normal(size=(8, 50, 4, 16))).astype(jnp.bfloat16) for s in (size, size, size, 1.0)]
    expected = exact(False, *(np.asarray(x, np.float64) for x in arrays))
    error = lambda got: [np.sqrt(((x - y) ** 2).mean() / (y**2).mean()) for x, y in zip(got, expected)]  # noqa: E731
    (out, *by, of_value), (kept, *_, kept_of_value) = map(error, of_both_forms(False, arrays[:3], arrays[3]))
    assert out <= kept
    assert of_value <= 1.01 * kept_of_value
    assert max(by) < 0.01
