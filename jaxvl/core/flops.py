"""FLOPs of a traced function, counted from its jaxpr: exact, and whatever the compiler makes of it later."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np


def of_jaxpr(jaxpr: Any, padding: bool = False, platform: str = "tpu") -> int:
    """FLOPs of all convolutions and matrix products, a multiply and an add being two; all else is left out.

    A scan counts as often as it turns, a `while` once, since nobody knows. Of branches the most expensive counts, as
    at most one runs; of the forms of `jaxvl.core.platforms` that of `platform`. padding: products with the zeros around
    an image, and between its points, count, too; XLA's own analysis leaves them out (7 % of a ResNet).
    """
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            total += _convolution(eqn, padding)
        elif eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            total += (
                2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
            )
        inner = [of_jaxpr(found, padding, platform) for found in _inside(eqn, platform)]
        if eqn.primitive.name in ("cond", "custom_jvp_call", "custom_vjp_call"):
            total += max(inner, default=0)
        else:
            total += sum(inner) * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
    return total


def _inside(eqn: Any, platform: str) -> list[Any]:
    if forms := eqn.params.get("branches_platforms"):
        chosen = next(i for i, of in enumerate(forms) if of is None or platform in of)
        return [eqn.params["branches"][chosen].jaxpr]
    values = [v for value in eqn.params.values() for v in (value if isinstance(value, list | tuple) else [value])]
    return [v.jaxpr if hasattr(v, "jaxpr") else v for v in values if hasattr(v, "jaxpr") or hasattr(v, "eqns")]


def _convolution(eqn: Any, padding: bool) -> int:
    numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
    image, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    total = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for axis in range(len(kernel) - 2):
        total *= valid_pairs(
            image[numbers.lhs_spec[2 + axis]],
            kernel[numbers.rhs_spec[2 + axis]],
            out[numbers.out_spec[2 + axis]],
            eqn.params["window_strides"][axis],
            eqn.params["padding"][axis][0],
            eqn.params["lhs_dilation"][axis],
            eqn.params["rhs_dilation"][axis],
            padding,
        )
    return 2 * total


@functools.lru_cache(maxsize=4096)
def valid_pairs(
    size: int,
    kernel: int,
    out: int,
    stride: int = 1,
    low: int = 0,
    dilation: int = 1,
    kernel_dilation: int = 1,
    padding: bool = False,
) -> int:
    """Along one axis of a convolution: how many pairs (output point, kernel point) fall on a point of the image, not on
    padding or between two points. `low` is the padding in front, which may be negative; padding: all pairs."""
    if padding:
        return out * kernel
    seen = np.arange(out)[:, None] * stride - low + np.arange(kernel) * kernel_dilation
    return int(np.sum((seen % dilation == 0) & (seen >= 0) & (seen < size * dilation)))


def of(function: Any, *args: Any, padding: bool = False, platform: str = "tpu") -> int:
    """FLOPs of `function(*args)`; see `of_jaxpr`."""
    return of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr, padding, platform)


def text(value: float) -> str:
    """`6.92 TFLOP`."""
    unit, name = next(((u, n) for u, n in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if value >= u), (1, ""))
    return f"{value / unit:.3g} {name}FLOP"
