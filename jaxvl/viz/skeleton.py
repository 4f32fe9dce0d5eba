"""Skeletons as pictures: poses, contact sheets and animations with the joints and frames that a model favours, action
pictures, confusion matrices. Pillow only.

Poses are seen from the front: x to the right, y upwards, so a body that faces the viewer has its left on the right. The
left side is blue, the right side orange; a second body is drawn paler.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.data.skeletons import Skeleton, present_frames
from jaxvl.viz import images
from jaxvl.viz.images import Colour

LEFT: Colour = (38, 104, 190)
RIGHT: Colour = (214, 96, 22)
MIDDLE: Colour = (92, 96, 106)
HOT: Colour = (190, 24, 60)
LIMIT = 4000
"""Frames of the longest animation."""


def bone_colours(skeleton: Skeleton) -> list[Colour]:
    """Of each joint, by the side that its name says."""
    return [LEFT if "left" in name else RIGHT if "right" in name else MIDDLE for name in skeleton.joints]


class Stage:
    """Where points of a whole sequence `[M, T, J, 3]` go on a square of `size` pixels: one scale, so that motion shows.
    Raises ValueError where nobody is there."""

    def __init__(self, x: np.ndarray, size: int, margin: float = 0.08):
        there = present_frames(x)
        if not there.any():
            raise ValueError("a sequence without a body cannot be drawn")
        points = x[there][..., :2].reshape(-1, 2).astype(np.float64)
        low, high = points.min(0), points.max(0)
        self.middle, self.size = (low + high) / 2, size
        self.scale = size * (1 - 2 * margin) / max(float((high - low).max()), 1e-6)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """`[..., 3]` -> pixels `[..., 2]`."""
        flat = (np.asarray(points, np.float64)[..., :2] - self.middle) * self.scale
        return flat * [1, -1] + self.size / 2


def pose(
    joints: np.ndarray, skeleton: Skeleton, stage: Stage, gates: np.ndarray | None = None, paler: Sequence[bool] = ()
) -> Image.Image:
    """One frame of bodies `[M, J, 3]` (bodies of zeros are left out). gates: `[M, J]`, the weight of each joint; those
    above 1 get a disc, the larger the gate the larger and redder."""
    sheet = Image.new("RGB", (stage.size, stage.size), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    colours = bone_colours(skeleton)
    for body, points in enumerate(joints):
        if not points.any():
            continue
        at = stage(points)
        pale = body < len(paler) and paler[body]
        for joint, (x, y) in enumerate(at):
            over = 0.0 if gates is None else float(np.clip((gates[body, joint] - 1) / 0.5, 0, 1))
            if over > 0.02:
                radius = 3 + over * stage.size / 26
                draw.ellipse(
                    (x - radius, y - radius, x + radius, y + radius), _towards(images.WHITE, HOT, 0.3 + over / 2)
                )
        for joint, parent in skeleton.bones:
            colour = _towards(colours[joint], images.WHITE, 0.55) if pale else colours[joint]
            draw.line((*at[parent], *at[joint]), colour, 3)
        for joint, (x, y) in enumerate(at):
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), colours[joint])
    return sheet


def frames_of(
    x: np.ndarray,
    skeleton: Skeleton,
    joint_gates: np.ndarray | None = None,
    frame_gates: np.ndarray | None = None,
    size: int = 220,
) -> list[Image.Image]:
    """Each frame of `[M, T, J, 3]` as a picture, under it a bar a body that shows where in time it is and how the
    frames are weighted. joint_gates: `[M, J]`. frame_gates: `[M, T]`. Raises ValueError for a sequence without a body.
    """
    stage = Stage(x, size)
    paler = [body > 0 for body in range(len(x))]
    bars = [] if frame_gates is None else [b for b in range(len(x)) if x[b].any()]
    out = []
    for t in range(x.shape[1]):
        sheet = Image.new("RGB", (size, size + 14 * max(1, len(bars))), images.WHITE)
        sheet.paste(pose(x[:, t], skeleton, stage, joint_gates, paler), (0, 0))
        for row, body in enumerate(bars):
            gate_bar(sheet, frame_gates[body], (4, size + 14 * row, size - 4, size + 14 * row + 10), t)
        if not bars:
            gate_bar(sheet, np.ones(x.shape[1]), (4, size, size - 4, size + 10), t)
        out.append(sheet)
    return out


def gate_bar(sheet: Image.Image, gates: np.ndarray, box: tuple[int, int, int, int], now: int | None = None) -> None:
    """A bar of time on the sheet: red where a gate is above 1, blue where it is below, a line at frame `now`."""
    draw = ImageDraw.Draw(sheet)
    left, top, right, bottom = box
    edges = np.linspace(left, right, len(gates) + 1)
    for t, gate in enumerate(gates):
        draw.rectangle((edges[t], top, edges[t + 1], bottom), gate_colour(float(gate)))
    draw.rectangle(box, outline=images.RULE)
    if now is not None:
        x = (edges[now] + edges[now + 1]) / 2
        draw.line((x, top - 2, x, bottom + 2), images.INK, 2)


def gate_colour(gate: float) -> Colour:
    """1 is white, 1.5 red, 0.5 blue."""
    share = min(1.0, abs(gate - 1) / 0.5)
    return _towards(images.WHITE, HOT if gate > 1 else LEFT, share)


def contact_sheet(
    x: np.ndarray,
    skeleton: Skeleton,
    joint_gates: np.ndarray | None = None,
    frame_gates: np.ndarray | None = None,
    count: int = 8,
    size: int = 150,
    title: str = "",
) -> Image.Image:
    """`count` evenly spaced frames side by side, with the arguments of `frames_of`."""
    frames = frames_of(x, skeleton, joint_gates, frame_gates, size)
    picked = ((np.arange(min(count, len(frames))) + 0.5) * len(frames) / min(count, len(frames))).astype(int)
    shown = [images.label(frames[t], f"frame {t}", 11, images.FAINT) for t in picked]
    sheet = images.grid(shown, len(shown))
    return headed(sheet, title) if title else sheet


def headed(sheet: Image.Image, title: str, size: int = 14) -> Image.Image:
    """The picture with a line of text above it."""
    height = images.text_size(title, size)[1] + 6
    out = Image.new("RGB", (sheet.width, sheet.height + height), images.WHITE)
    out.paste(sheet, (0, height))
    ImageDraw.Draw(out).text((6, 2), images.fit(title, size, sheet.width - 12), images.INK, images.font(size))
    return out


def animation(frames: Sequence[Image.Image], fps: float = 15.0) -> bytes:
    """A GIF that repeats, of at most `LIMIT` frames."""
    buffer = io.BytesIO()
    kept = [frame.quantize(64) for frame in frames[:LIMIT]]
    kept[0].save(
        buffer, "GIF", save_all=True, append_images=kept[1:], duration=max(20, round(1000 / fps)), loop=0, disposal=2
    )
    return buffer.getvalue()


def channels_picture(values: np.ndarray, height: int = 192) -> Image.Image:
    """Three channels of an action picture `[T, J, 3]` as colours, each over its own range; rows are frames, columns
    joints."""
    values = np.asarray(values, np.float64)
    low, high = values.min((0, 1)), values.max((0, 1))
    scaled = np.round(255 * (values - low) / np.where(high > low, high - low, 1.0)).astype(np.uint8)
    whole = max(1, height // len(scaled))
    return Image.fromarray(scaled).resize((scaled.shape[1] * whole, len(scaled) * whole), Image.Resampling.NEAREST)


def action_picture(picture: np.ndarray, parts: Sequence[str], height: int = 192) -> Image.Image:
    """An action picture `[T, J, C]` as one image for each three channels, side by side, with their names `parts`."""
    shown = [channels_picture(picture[..., 3 * i : 3 * i + 3], height) for i in range(picture.shape[-1] // 3)]
    return images.grid([images.label(p, name, 12) for p, name in zip(shown, parts, strict=True)], len(shown))


def confusion_picture(counts: np.ndarray, names: Sequence[str], size: int = 640) -> Image.Image:
    """Counts `[K, K]`, true classes down, predictions to the right, as shares of each row. Up to 24 classes have their
    names and figures; more are cells alone."""
    counts = np.asarray(counts, np.float64)
    classes = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = classes <= 24
    left = 8 + (max(images.text_size(images.clean(n), 11)[0] for n in names) if named else 0)
    left = min(left, size // 3)
    cell = max(2, min(48, (size - left) // classes))
    sheet = Image.new("RGB", (left + cell * classes + 8, cell * classes + (26 if named else 8)), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    for i in range(classes):
        if named:
            draw.text((4, i * cell + cell / 2 - 7), images.fit(names[i], 11, left - 8), images.INK, images.font(11))
        for j in range(classes):
            x, y = left + j * cell, i * cell
            colour = _towards(images.WHITE, images.GREEN if i == j else HOT, share[i, j])
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), colour)
            if named and share[i, j] >= 0.005 and cell >= 22:
                text = f"{100 * share[i, j]:.0f}"
                draw.text((x + cell / 2 - images.text_size(text, 10)[0] / 2, y + cell / 2 - 6), text, images.INK,
                          images.font(10))  # fmt: skip
    draw.rectangle((left, 0, left + cell * classes, cell * classes), outline=images.RULE)
    if named:
        text = "true classes down, predictions to the right in the same order, percent of a row"
        draw.text((4, cell * classes + 6), images.fit(text, 11, sheet.width - 8), images.FAINT, images.font(11))
    return sheet


def _towards(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(p + (q - p) * float(share)) for p, q in zip(a, b, strict=True))
