"""Small moving worlds for UTT's claims: sprites of random colours over smooth noise, as arrays.

A frame is 48x48, three sprites move over it at constant speed and bounce off its border, their size and the light walk
a little, and in a share of the sequences they look alike. Sprites of the task "one object" are ellipses and rectangles;
"all objects" are of one category, rectangles with a white rim. Every sequence has sprites of its own, so that all of a
test are new. Boxes are corners in pixels of the frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE, SPRITES, PATTERN, PATCHES = 48, 3, 4, 6
MARGIN, SPEED, SIDES = 8.0, 2.5, (9.0, 16.0)
GAIN, NOISE, WALK, OWN = (0.85, 1.15), 0.03, 0.02, 0.35
ALIKE = 0.3
GAP = 3
"""Frames that the two of a training pair are apart at most."""


class Clips(NamedTuple):
    """n sequences of t frames. frames uint8 `[n, t, 48, 48, 3]`; boxes float32 `[n, t, 3, 4]`; alike bool `[n]`."""

    frames: np.ndarray
    boxes: np.ndarray
    alike: np.ndarray


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def enlarged(grid: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`[g, g, 3]` read bilinearly at shares y `[h]`, x `[w]` of its side, 0 and 1 being the centres of its border."""
    parts = []
    for at in (y, x):
        place = np.clip(at, 0, 1) * (len(grid) - 1)
        low = np.minimum(place.astype(int), len(grid) - 2)
        parts.append((low, (place - low)))
    (i, u), (j, v) = parts
    rows = grid[i] * (1 - u)[:, None, None] + grid[i + 1] * u[:, None, None]
    return rows[:, j] * (1 - v)[None, :, None] + rows[:, j + 1] * v[None, :, None]


def paths(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes of a sequence, `[t, 3, 4]`."""
    at, speed = rng.uniform(MARGIN, SIDE - MARGIN, (SPRITES, 2)), rng.uniform(-SPEED, SPEED, (SPRITES, 2))
    size, found = rng.uniform(*SIDES, (SPRITES, 2)), []
    for _ in range(frames):
        found.append(np.concatenate([at - size / 2, at + size / 2], -1))
        at = at + speed
        speed = np.where((at < MARGIN) | (at > SIDE - MARGIN), -speed, speed)
        at = np.where(at < MARGIN, 2 * MARGIN - at, at)
        at = np.where(at > SIDE - MARGIN, 2 * (SIDE - MARGIN) - at, at)
        size = np.clip(size * rng.uniform(1 - WALK, 1 + WALK, size.shape), *SIDES)
    return np.stack(found)


def painted(frame: np.ndarray, box: np.ndarray, pattern: np.ndarray, ellipse: bool, rim: bool) -> None:
    """Paints a sprite into a frame, float `[48, 48, 3]`, in place."""
    low, high = np.maximum(np.floor(box[:2]).astype(int), 0), np.minimum(np.ceil(box[2:]).astype(int), SIDE)
    x, y = (np.arange(a, b) + 0.5 for a, b in zip(low, high))
    u, v = (x - box[0]) / (box[2] - box[0]), (y - box[1]) / (box[3] - box[1])
    colours = sigmoid(2.5 * enlarged(pattern, v, u))
    inside = ((u >= 0) & (u <= 1))[None] & ((v >= 0) & (v <= 1))[:, None]
    if ellipse:
        inside &= (2 * u - 1)[None] ** 2 + (2 * v - 1)[:, None] ** 2 <= 1
    if rim:
        edge = [np.minimum(a - b, c - a) < 1.0 for a, b, c in ((x, box[0], box[2]), (y, box[1], box[3]))]
        colours = np.where((edge[0][None] | edge[1][:, None])[..., None], 1.0, colours)
    part = frame[low[1] : high[1], low[0] : high[0]]
    part[inside] = colours[inside]


def clip(frames: int, category: bool, alike: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One sequence. category: of the task "all objects"."""
    shares = np.linspace(0, 1, SIDE)
    background = sigmoid(1.2 * enlarged(rng.normal(size=(PATCHES, PATCHES, 3)), shares, shares))
    patterns = rng.normal(size=(SPRITES, PATTERN, PATTERN, 3))
    if alike:
        patterns = rng.normal(size=(1, PATTERN, PATTERN, 3)) + OWN * patterns
    ellipse = np.zeros(SPRITES, bool) if category else rng.random(SPRITES) < 0.5
    if alike:
        ellipse[:] = ellipse[0]
    boxes, out = paths(frames, rng), []
    for now in boxes:
        frame = background.copy()
        for box, pattern, is_round in zip(now, patterns, ellipse):
            painted(frame, box, pattern, bool(is_round), category)
        frame = frame * rng.uniform(*GAIN) + NOISE * rng.normal(size=frame.shape)
        out.append((255 * frame.clip(0, 1)).round().astype(np.uint8))
    return np.stack(out), boxes.astype(np.float32)


def unseen_clips(category: bool, seed: int, count: int = 16, frames: int = 30) -> Clips:
    """Sequences of a test; every second one has sprites that look alike."""
    made = [clip(frames, category, bool(i % 2), np.random.default_rng([seed, 1, category, i])) for i in range(count)]
    return Clips(np.stack([f for f, _ in made]), np.stack([b for _, b in made]), np.arange(count) % 2 == 1)


def training_pairs(category: bool, seed: int, count: int = 1500) -> Clips:
    """Pairs of frames, one to three frames apart."""
    made, alike = [], []
    for i in range(count):
        rng = np.random.default_rng([seed, 0, category, i])
        alike.append(bool(rng.random() < ALIKE))
        apart = int(rng.integers(1, GAP + 1))
        frames, boxes = clip(apart + 1, category, alike[-1], rng)
        made.append((frames[[0, -1]], boxes[[0, -1]]))
    return Clips(np.stack([f for f, _ in made]), np.stack([b for _, b in made]), np.array(alike))


def augmented(pairs: Clips, chosen: np.ndarray, rng: np.random.Generator) -> Clips:
    """Pairs of these numbers with their colours permuted, mirrored along either axis, and run backwards."""
    frames, boxes = pairs.frames[chosen].copy(), pairs.boxes[chosen].copy()
    for i in range(len(chosen)):
        frames[i] = frames[i][..., rng.permutation(3)]
        if rng.random() < 0.5:
            frames[i] = frames[i][:, :, ::-1]
            boxes[i][..., [0, 2]] = SIDE - boxes[i][..., [2, 0]]
        if rng.random() < 0.5:
            frames[i] = frames[i][:, ::-1]
            boxes[i][..., [1, 3]] = SIDE - boxes[i][..., [3, 1]]
        if rng.random() < 0.5:
            frames[i], boxes[i] = frames[i][::-1].copy(), boxes[i][::-1].copy()
    return Clips(frames, boxes, pairs.alike[chosen])
