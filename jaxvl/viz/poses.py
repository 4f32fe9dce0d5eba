"""Poses as pictures: from three sides, many on a sheet, where limbs point, how values are spread. Pillow only.

Poses are `[J, 3]` in a camera's axes (x right, y down, z forward) unless said otherwise; `jaxvl.viz.skeleton` draws
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.data.skeletons import Skeleton
from jaxvl.viz import images, skeleton
from jaxvl.viz.curves import Series
from jaxvl.viz.plot import plot

SIDES = {"from the camera": (0, -1, 2), "from the right": (2, -1, 0), "from above": (0, 2, 1)}
"""View -> which axis points right, which one up and which one away; -1 stands for y turned up."""


def seen_from(x: np.ndarray, side: str) -> np.ndarray:
    """Poses `[..., J, 3]` as `skeleton.pose` takes them: x to the right, y up."""
    axes = {0: x[..., 0], 1: x[..., 1], 2: x[..., 2], -1: -x[..., 1]}
    return np.stack([axes[axis] for axis in SIDES[side]], -1)


def three_sides(
    x: np.ndarray, bones: Skeleton, x2d: np.ndarray | None = None, truth: np.ndarray | None = None, size: int = 180
) -> Image.Image:
    """A pose from three sides in a row, all on one scale, behind the joints of the picture `[J, 2]` where they are
    given. truth: another pose, drawn paler."""
    bodies = np.stack([x - x[:1]] + ([] if truth is None else [truth - truth[:1]]))
    shown = []
    if x2d is not None:
        flat = np.concatenate([x2d * [1, -1], np.ones((len(x2d), 1))], -1)[None]
        drawn = skeleton.pose(flat, bones, skeleton.Stage(flat[:, None], size))
        shown.append(images.label(drawn, "given", 11, images.FAINT))
    reach = float(np.abs(bodies).max()) * np.array([[-1.0], [1.0]]) * np.ones(3)  # one scale for all sides
    for side in SIDES:
        stage = skeleton.Stage(reach[:, None, None], size)
        drawn = skeleton.pose(seen_from(bodies, side), bones, stage, paler=[False, True])
        shown.append(images.label(drawn, side, 11, images.FAINT))
    return images.grid(shown, len(shown))


def sheet(
    poses: np.ndarray, bones: Skeleton, titles: Sequence[str] = (), columns: int = 8, size: int = 110
) -> Image.Image:
    """Poses `[n, J, 3]` of a world with z up side by side, seen along its y, each centred on its root, on one scale."""
    x = poses - poses[:, :1]
    turned = np.stack([x[..., 0], x[..., 2], -x[..., 1]], -1)
    reach = float(np.abs(turned).max()) * np.array([[-1.0], [1.0]]) * np.ones(3)
    stage = skeleton.Stage(reach[:, None, None], size)
    drawn = [skeleton.pose(one[None], bones, stage) for one in turned]
    drawn = [images.label(d, t, 10, images.FAINT) for d, t in zip(drawn, titles, strict=True)] if titles else drawn
    return images.grid(drawn, columns, 2)


def histograms(rows: Mapping[str, np.ndarray], names: Sequence[str], cell: int = 6) -> Image.Image:
    """Where limbs point: counts `[limbs, azimuths, heights]` for each row, a small map a limb. To the right the azimuth
    about the body (its left at 0, forward at 90 degrees), up the height; the darker the more often, each map by
    itself."""
    shown = []
    for row, counts in rows.items():
        for limb, name in enumerate(names):
            share = counts[limb] / max(1, counts[limb].max())
            grey = np.round(255 * (1 - np.sqrt(share))).astype(np.uint8).T[::-1]
            picture = Image.fromarray(grey).resize(
                (cell * grey.shape[1], cell * grey.shape[0]), Image.Resampling.NEAREST
            )
            sheet = images.as_image(picture)
            ImageDraw.Draw(sheet).rectangle((0, 0, sheet.width - 1, sheet.height - 1), outline=images.RULE)
            shown.append(images.label(sheet, f"{row}: {name}", 11, images.FAINT))
    return images.grid(shown, len(names) // 2 if len(names) > 4 else len(names), 4)


def spread(values: Mapping[str, np.ndarray], x_label: str, bins: int = 40) -> Image.Image:
    """Shares of values in equal bins, a line for each name. Raises ValueError where there is no value."""
    every = np.concatenate([np.asarray(v, np.float64).ravel() for v in values.values()])
    if not every.size:
        raise ValueError("nothing to plot: no value")
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines = [
        Series(name, middle, (100 * np.histogram(v, edges)[0] / max(1, np.size(v))).tolist())
        for name, v in values.items()
    ]
    return plot(lines, x_label, "percent")


def by_distance(
    distances: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray], x_label: str, y_label: str, bins: int = 10
) -> Image.Image:
    """Mean error over tenths of the poses of each name, from the nearest to the farthest."""
    lines = []
    for name, distance in distances.items():
        order = np.argsort(distance, kind="stable")
        parts = [p for p in np.array_split(order, bins) if len(p)]
        xs = [float(np.mean(distance[p])) for p in parts]
        lines.append(Series(name, xs, [float(np.mean(errors[name][p])) for p in parts]))
    return plot(lines, x_label, y_label)
