"""Draws a planned clip: uint8 frames and, frame by frame, where every sprite is and how much of it shows.

Sprites are drawn as polygons at four times the resolution and averaged down, at sub-pixel positions, so
edges are smooth and motion is not quantised to pixels. Pictures are `[H, W, 3]` with y down.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.data.synthetic.sprites import shapes
from jaxvl.data.synthetic.sprites.motions import State, state_at
from jaxvl.data.synthetic.sprites.world import Background, Clip, Sprite

SUPERSAMPLE = 4
_SHOWS = 0.05  # least opacity of a pixel that counts as visible


@dataclasses.dataclass(frozen=True)
class Track:
    """Ground truth of one sprite, one entry a frame.

    box_full: [x0, y0, x1, y1] in pixels around the whole sprite, also its parts outside the picture or
        behind others; None while it is not on stage. box_visible: half-open integer box around the pixels
        in which it shows; None where nothing of it shows. visible_fraction: shown area / whole area, 0..1,
        regardless of opacity. opacity: 0..1, below 1 while fading or blinking.
    """

    id: int
    box_full: tuple[tuple[float, float, float, float] | None, ...]
    box_visible: tuple[tuple[int, int, int, int] | None, ...]
    visible_fraction: tuple[float, ...]
    opacity: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """frames: uint8 `[F, H, W, 3]`. tracks: one a sprite, in the order of `Clip.sprites`."""

    frames: np.ndarray
    tracks: tuple[Track, ...]


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A sprite in one frame: colour `[h, w, 3]` and cover `[h, w]` in 0..1 (opacity not applied) of the
    patch whose upper left pixel is (left, top) of the picture; the patch may leave the picture."""

    left: int
    top: int
    colour: np.ndarray
    cover: np.ndarray
    box: tuple[float, float, float, float]


def sprite_state(clip: Clip, sprite: Sprite, frame: int) -> State | None:
    """State of `sprite` in `frame`, or None while it is not on stage."""
    if not sprite.on_stage[0] <= frame < sprite.on_stage[1]:
        return None
    start, end = 0.0, (clip.num_frames - 1) / clip.fps
    if sprite.event is not None:
        start, end = clip.events[sprite.event].start, clip.events[sprite.event].end
    return state_at(sprite.path, (frame / clip.fps - start) / max(end - start, 1e-6))


def draw_sprite(sprite: Sprite, state: State, side: int) -> _Drawn:
    """Draws one sprite at `state` into a patch of its own. side: of the picture, in pixels."""
    ss = SUPERSAMPLE
    radius = sprite.size * state.scale * side / 2
    cx, cy = state.x * side, state.y * side
    turn = np.array([[math.cos(state.angle), math.sin(state.angle)], [-math.sin(state.angle), math.cos(state.angle)]])
    outline = [r @ turn * radius + (cx, cy) for r in shapes.rings(sprite.noun)]
    edge = max(0.6, radius * 0.07)  # half the width of the dark edge, pixels
    points = np.concatenate(outline)
    box = (*(points.min(0) - edge / 2), *(points.max(0) + edge / 2))
    left, top = math.floor(box[0]) - 1, math.floor(box[1]) - 1
    width, height = math.ceil(box[2]) + 1 - left, math.ceil(box[3]) + 1 - top

    def place(xy: np.ndarray) -> list[tuple[float, float]]:  # picture pixels -> fine patch pixels
        return [tuple(p) for p in (xy - (left, top)) * ss - 0.5]

    rgb = shapes.COLOURS[sprite.colour]
    colour = Image.new("RGB", (width * ss, height * ss), rgb)
    cover = Image.new("L", colour.size, 0)
    paint, mask = ImageDraw.Draw(colour), ImageDraw.Draw(cover)
    mask.polygon(place(outline[0]), fill=255)
    for hole in outline[1:]:
        mask.polygon(place(hole), fill=0)
    _draw_texture(paint, sprite, radius * ss, lambda xy: place(xy @ turn * radius + (cx, cy)))
    dark = shapes.outline(rgb)
    for ring in outline:
        line = place(ring)
        line += line[:2]
        paint.line(line, fill=dark, width=max(1, round(2 * edge * ss)), joint="curve")
        mask.line(line, fill=255, width=max(1, round(edge * ss)), joint="curve")
    return _Drawn(
        left,
        top,
        np.asarray(colour.reduce(ss), np.float32),
        np.asarray(cover.reduce(ss), np.float32) / 255,
        tuple(round(float(v), 2) for v in box),
    )


def _draw_texture(paint: ImageDraw.ImageDraw, sprite: Sprite, radius: float, place) -> None:
    """Stripes or dots over the whole patch, fixed to the sprite so that they turn and grow with it.
    radius: of the sprite in fine pixels; place: unit-disc points -> fine pixels."""
    second = shapes.accent(shapes.COLOURS[sprite.colour])
    if sprite.texture == "striped":
        for x in np.arange(-1.6, 1.61, 0.64):  # slanted bands, about as wide as the gaps between them
            band = np.array([(x - 0.75, 1.2), (x + 0.45, -1.2), (x + 0.75, -1.2), (x - 0.45, 1.2)])
            paint.polygon(place(band), fill=second)
    elif sprite.texture == "dotted":
        step, r = 0.56, 0.18 * radius
        rows = enumerate(np.arange(-0.84, 1, step))
        grid = [(x + (0.5 * step if k % 2 else 0), y) for k, y in rows for x in np.arange(-1.12, 1.2, step)]
        for x, y in place(np.array(grid)):
            paint.ellipse((x - r, y - r, x + r, y + r), fill=second)


def draw_background(background: Background, side: int, margin: int = 0) -> np.ndarray:
    """float32 `[side + 2 margin, side + 2 margin, 3]` in 0..255, before the clip's brightness."""
    rng = np.random.Generator(np.random.PCG64(background.seed))
    n = side + 2 * margin
    tone = np.array(shapes.TONES[background.tone], np.float32) + rng.uniform(-6, 6, 3).astype(np.float32)
    change = 0.22 * (255 - tone if tone.mean() < 128 else -tone)  # towards the far end, so that it can be seen
    if background.kind == "flat":
        weight = np.zeros((n, n), np.float32)
    elif background.kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:n, 0:n] / (n - 1) - 0.5
        weight = 1.6 * ((x * np.cos(angle) + y * np.sin(angle)) / (abs(np.cos(angle)) + abs(np.sin(angle))) + 0.5)
    elif background.kind == "texture":  # a checkerboard
        cell = side / 8
        y, x = (np.arange(n) - margin + rng.uniform(0, 2 * cell, 2)[:, None]) // cell
        weight = 0.75 * ((y[:, None] + x[None]) % 2)
    else:  # noise: soft blobs and fine grain, the same in every frame
        cells = max(4, n // 8)
        blobs = Image.fromarray(rng.random((cells, cells), np.float32)).resize((n, n), Image.Resampling.BICUBIC)
        weight = 1.4 * np.clip(np.asarray(blobs), 0, 1) * rng.uniform(0.5, 1.0, (n, n))
    return tone + change * np.asarray(weight, np.float32)[..., None]


def render_clip(clip: Clip, without: Collection[int] = ()) -> Rendered:
    """Renders every frame of `clip`. without: ids of sprites that are left out of the picture (their tracks
    are still returned, as if they were there), which shows where a sprite really is."""
    states = [[sprite_state(clip, s, f) for s in clip.sprites] for f in range(clip.num_frames)]
    return render_states(clip.background, clip.image_size, clip.fps, clip.sprites, states, without)


def render_states(
    background: Background,
    side: int,
    fps: int,
    sprites: Sequence[Sprite],
    states_of: Sequence[Sequence[State | None]],
    without: Collection[int] = (),
) -> Rendered:
    """The same for sprites whose states are given, one list a frame with an entry a sprite (None: not on stage)."""
    count = len(states_of)
    pan = np.array(background.pan) / fps  # pixels a frame
    margin = math.ceil(float(np.abs(pan).max()) * count) + 1 if pan.any() else 0
    scene = draw_background(background, side, margin)
    by_depth = sorted(range(len(sprites)), key=lambda k: sprites[k].depth)
    frames = np.empty((count, side, side, 3), np.uint8)
    truths: list[list[tuple]] = []
    last_key, key_frame = None, 0
    for f, states in enumerate(states_of):
        states = list(states)
        key = (states, tuple(pan * f))
        if key == last_key:  # a still moment: the same picture again
            frames[f] = frames[key_frame]
            truths.append(truths[key_frame])
            continue
        last_key, key_frame = key, f
        picture = _window(scene, pan * f, margin, side)
        drawn = {k: draw_sprite(sprites[k], states[k], side) for k in by_depth if states[k] is not None}
        for k in by_depth:
            if states[k] is not None and sprites[k].id not in without:
                _blend(picture, drawn[k], states[k].opacity)
        truths.append(_truth(by_depth, drawn, states, side))
        frames[f] = np.clip(np.rint(picture * background.brightness), 0, 255).astype(np.uint8)
    tracks = [Track(s.id, *(tuple(t[k][part] for t in truths) for part in range(4))) for k, s in enumerate(sprites)]
    return Rendered(frames, tuple(tracks))


def _window(scene: np.ndarray, shift: np.ndarray, margin: int, side: int) -> np.ndarray:
    """The part of the background that the camera sees, moved by `shift` = (x, y) pixels (bilinear)."""
    if margin == 0:
        return scene.copy()
    x, y = margin + shift
    i, j = math.floor(y), math.floor(x)
    v, u = np.float32(y - i), np.float32(x - j)
    part = scene[i : i + side + 1, j : j + side + 1]
    rows = part[:-1] * (1 - v) + part[1:] * v
    return rows[:, :-1] * (1 - u) + rows[:, 1:] * u


def _overlap(drawn: _Drawn, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """(slices of the picture, slices of the patch) where both are, or None."""
    h, w = drawn.cover.shape
    y0, y1 = max(drawn.top, 0), min(drawn.top + h, side)
    x0, x1 = max(drawn.left, 0), min(drawn.left + w, side)
    if y0 >= y1 or x0 >= x1:
        return None
    patch = slice(y0 - drawn.top, y1 - drawn.top), slice(x0 - drawn.left, x1 - drawn.left)
    return (slice(y0, y1), slice(x0, x1)), patch


def _blend(picture: np.ndarray, drawn: _Drawn, opacity: float) -> None:
    where = _overlap(drawn, picture.shape[0])
    if where is not None:
        alpha = drawn.cover[where[1]][..., None] * np.float32(opacity)
        picture[where[0]] += alpha * (drawn.colour[where[1]] - picture[where[0]])


def _truth(by_depth: list[int], drawn: dict[int, _Drawn], states: list[State | None], side: int) -> list[tuple]:
    """Per sprite (box_full, box_visible, visible_fraction, opacity), from the covers drawn."""
    rows: list[tuple] = [(None, None, 0.0, 0.0)] * len(states)
    through = np.ones((side, side), np.float32)  # how much one sees of what lies below the sprites so far
    for k in reversed(by_depth):  # from the front to the back
        if states[k] is None:
            continue
        opacity = states[k].opacity
        where, whole = _overlap(drawn[k], side), float(drawn[k].cover.sum())
        box, fraction = None, 0.0
        if where is not None:
            (rows_at, columns_at), patch = where
            shown = drawn[k].cover[patch] * through[where[0]]
            fraction = min(1.0, float(shown.sum()) / whole)
            y, x = np.nonzero(shown * opacity > _SHOWS)
            if len(y):
                left, top = columns_at.start, rows_at.start
                box = (int(x.min()) + left, int(y.min()) + top, int(x.max()) + 1 + left, int(y.max()) + 1 + top)
            through[where[0]] *= 1 - drawn[k].cover[patch] * opacity
        rows[k] = (drawn[k].box, box, round(fraction, 4), round(opacity, 4))
    return rows
