"""Sizes of training pairs. Each size is a stream and an objective of its own, so that each compiles once: `mot`, or
with several sizes `mot_HEIGHTxWIDTH`, which take turns as often as they have short sides to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxvl.core.errors import InputError


class Bucket(NamedTuple):
    """size: (height, width) that its pairs are padded to. short: the short sides that are drawn for them."""

    size: tuple[int, int]
    short: tuple[int, ...]


def buckets(data: ConfigDict) -> dict[str, Bucket]:
    """Stream -> bucket, of `config.data`, the smallest first. A short side belongs to the smallest size whose short
    side holds it, those beyond to the largest, whose pairs are made smaller until they fit. Raises InputError for a
    size that no short side belongs to."""
    sizes = sorted({tuple(int(v) for v in size) for size in (data.mot_size, *data.mot_buckets)}, key=lambda s: min(s))
    short: dict[tuple[int, ...], list[int]] = {size: [] for size in sizes}
    for side in data.mot_short:
        short[next((size for size in sizes if side <= min(size)), sizes[-1])].append(int(side))
    for size, sides in short.items():
        if not sides:
            raise InputError(
                f"config.data.mot_buckets: no short side of config.data.mot_short {tuple(data.mot_short)} belongs to "
                f"{size}; leave it out"
            )
    if len(sizes) == 1:
        return {"mot": Bucket(sizes[0], tuple(short[sizes[0]]))}
    return {f"mot_{h}x{w}": Bucket((h, w), tuple(short[h, w])) for h, w in sizes}


def turns(found: dict[str, Bucket]) -> Sequence[str]:
    """Streams in the order of a cycle: each as often as it has short sides, spread evenly."""
    total = sum(len(b.short) for b in found.values())
    taken, out = dict.fromkeys(found, 0), []
    for i in range(1, total + 1):
        late = max(found, key=lambda name: (i * len(found[name].short) / total - taken[name], -min(found[name].size)))
        taken[late] += 1
        out.append(late)
    return out
