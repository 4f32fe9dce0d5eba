"""Multiply-adds of a traced function: exact integers, whatever the compiler does."""

from __future__ import annotations

from jaxvl.core import flops


def count(function, *args, padding: bool = True, platform: str = "tpu") -> int:
    """Multiply-adds of all convolutions and matrix products of `function(*args)`.

    padding=False leaves out products with the zeros around an image, as XLA's cost analysis does (7 % of a ResNet).
    platform: which form counts where it is chosen by platform.
    """
    return flops.of(function, *args, padding=padding, platform=platform) // 2
