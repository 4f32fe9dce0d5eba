"""Both forms of what differs by platform: that the list is whole, what is lowered where, and that they agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvl
from jaxvl.core import in_place, platforms
from jaxvl.nn import attention, batch_norm
from jaxvl.nn.convolution import convolve, depthwise
from jaxvl.ops.roi_align import roi_align

ROOT = Path(jaxvl.__file__).parent
RNG = np.random.default_rng(0)
CONVOLUTION, PRODUCT, GATHER = r"stablehlo\.convolution", r"stablehlo\.dot_general", r"stablehlo\.(dynamic_)?gather"
LOG, DIVIDED = r"stablehlo\.log ", r"stablehlo\.divide [^:]*: tensor<2x3x7x"
TWO_SUMS = r"stablehlo\.reduce\(%\S+ init: %\S+\), \(%"  # one reduction of two arrays


class Example(NamedTuple):
    """A call of `function(*arrays)`; what its gradient's program has and has not, on CPUs and elsewhere."""

    function: object
    arrays: tuple
    cpu: tuple[str, str]
    elsewhere: tuple[str, str]


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


BOXES = np.array([[[2.0, 3.0, 60.0, 40.0], [-5.0, 10.0, 90.0, 70.0]]], np.float32)
MASK = np.array([1, 0, 1], np.float32)
WEIGHTS = r"stablehlo\.divide [^:]*: tensor<2x3x5x5x"
BARRIER = r"stablehlo\.optimization_barrier"
EXAMPLES = {
    "core/in_place.py:replaced": [
        Example(
            lambda m, g: in_place.replaced(lambda m, g: (0.9 * m + g, g), True, m, g)[0], (drawn(3, 4), drawn(3, 4)),
            (BARRIER, CONVOLUTION), (r"stablehlo\.multiply", BARRIER),
        )
    ],
    "core/in_place.py:laid_down": [
        Example(lambda x: in_place.laid_down(2 * x), (drawn(3, 4),), (BARRIER, PRODUCT), (r"stablehlo", BARRIER))
    ],
    "nn/convolution.py:convolve": [
        Example(convolve, (drawn(2, 6, 5, 4), drawn(1, 1, 4, 3)), (PRODUCT, CONVOLUTION), (CONVOLUTION, PRODUCT)),
        Example(
            lambda x, k: convolve(x, k, 2), (drawn(2, 6, 5, 4), drawn(1, 1, 4, 3)),
            (PRODUCT, CONVOLUTION), (CONVOLUTION, PRODUCT),
        ),
        Example(convolve, (drawn(2, 3, 4, 4), drawn(3, 3, 4, 3)), (PRODUCT, CONVOLUTION), (CONVOLUTION, PRODUCT)),
        Example(
            lambda x, k: convolve(0.01 * x, k, 2),
            (drawn(1, 530, 530, 16), drawn(3, 3, 16, 2) / 10), (PRODUCT, GATHER), (CONVOLUTION, PRODUCT),
        ),
    ],
    "nn/convolution.py:depthwise": [
        Example(depthwise, (drawn(2, 6, 5, 4), drawn(3, 3, 1, 4)), (PRODUCT, CONVOLUTION), (CONVOLUTION, PRODUCT))
    ],
    "nn/batch_norm.py:_both_sums": [
        Example(
            lambda x, s, b: batch_norm.normalize(x, s, b, 1e-5)[0], (drawn(2, 9, 4), drawn(4), drawn(4)),
            (TWO_SUMS, CONVOLUTION), (r"stablehlo\.reduce", TWO_SUMS),
        ),
        Example(
            lambda x, s, b: batch_norm.normalize_runs(x, s, b, (1, 2), 1e-5)[0], (drawn(3, 5, 4), drawn(4), drawn(4)),
            (TWO_SUMS, CONVOLUTION), (r"stablehlo\.reduce", TWO_SUMS),
        ),
    ],
    "nn/batch_norm.py:_weighted_sum": [
        Example(
            lambda x, s, b: batch_norm.normalize_some(x, MASK, s, b, 1e-5)[0], (drawn(3, 5, 4), drawn(4), drawn(4)),
            (PRODUCT, CONVOLUTION), (r"stablehlo\.reduce", PRODUCT),
        )
    ],
    "nn/attention.py:plain_attention": [
        Example(
            lambda q, k, v: attention.plain_attention(q, k, v, True), tuple(drawn(2, 5, 3, 4) for _ in range(3)),
            (WEIGHTS, BARRIER), (BARRIER, WEIGHTS),
        )
    ],
    "nn/attention.py:softmax": [
        Example(attention.softmax, (drawn(2, 3, 7),), (DIVIDED, LOG), (LOG, DIVIDED))
    ],
    "ops/roi_align.py:roi_align": [
        Example(lambda x: roi_align(x, BOXES, 0.25, 2), (drawn(1, 17, 18, 3),), (GATHER, PRODUCT), (PRODUCT, GATHER))
    ],
}  # fmt: skip
CASES = [(where, i) for where, examples in EXAMPLES.items() for i in range(len(examples))]


def with_gradients(example):
    """A new function each time, so that nothing is taken from a cache of traces."""
    each = tuple(range(len(example.arrays)))
    return lambda *arrays: jax.value_and_grad(lambda *a: jnp.sin(example.function(*a)).sum(), each)(*arrays)


def uses():
    """`module:function` of every use of the two names in the package."""
    found = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for outer in tree.body:
            for node in ast.walk(outer):
                name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", None)))
                if name in ("platform_dependent", "default_backend"):
                    found.add(f"{path.relative_to(ROOT).as_posix()}:{getattr(outer, 'name', outer.lineno)}")
    return found


def test_the_list_is_whole():
    forms = {form.where for form in platforms.FORMS}
    assert uses() == forms | set(platforms.CHOICES) | set(platforms.KERNELS)
    assert forms == set(EXAMPLES)


@pytest.mark.parametrize(("where", "i"), CASES)
def test_each_platform_gets_its_form_forward_and_backward(where, i):
    example = EXAMPLES[where][i]
    traced = jax.jit(with_gradients(example)).trace(*example.arrays)
    for platform in ("cpu", "tpu", "cuda"):
        there, absent = example.cpu if platform == "cpu" else example.elsewhere
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert re.search(there, text), platform
        assert not re.search(absent, text), platform


@pytest.mark.parametrize(("where", "i"), CASES)
def test_the_forms_agree(where, i):
    example, found = EXAMPLES[where][i], []
    for choose in (lambda *a, cpu, default: cpu(*a), lambda *a, cpu, default: default(*a)):
        with mock.patch.object(jax.lax, "platform_dependent", choose):
            found.append(jax.jit(with_gradients(example))(*example.arrays))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_vmapped_convolution_is_one_on_tpu():
    x, kernel = drawn(3, 2, 6, 5, 4), drawn(1, 1, 4, 3)
    traced = jax.jit(jax.vmap(convolve, (0, None))).trace(x, kernel)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert re.search(CONVOLUTION, text)
    assert not re.search(PRODUCT, text)
