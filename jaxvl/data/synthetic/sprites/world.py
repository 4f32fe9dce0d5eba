"""The sprite world: what happens in every clip, before a single pixel is drawn.

`plan_clip(config, split, index)` is a pure function: a clip depends on the look of the world (seed and the
fields that describe pictures and captions), its split and its index, never on another clip, so any one can
be planned and rendered alone. `sprites.render.render_clip` turns a plan into frames and ground truth.

How the honesty rules are met:
* a *combination* is (noun, colour, texture, motion); all of them are shuffled once by the seed and dealt to
  train, val and test, so no test combination was seen in training although every word was;
* item `i` of a split has the split's i-th combination as its first event, so that no two clips of the test
  (or val) split can share a caption;
* held-out pairs are (noun, motion) pairs whose combinations are all dealt to test;
* twins are items 2j and 2j + 1 with the same two events in opposite order: each sprite is on stage in its
  own event's slot only and everything else is equal, so the two clips hold the same bag of frames.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic.sprites import captions as wording
from jaxvl.data.synthetic.sprites import deal
from jaxvl.data.synthetic.sprites.deal import Combination, keyed_rng
from jaxvl.data.synthetic.sprites.motions import MOTIONS, Path, plan_path
from jaxvl.data.synthetic.sprites.shapes import COLOURS, NOUNS, SIZES, TEXTURES, TONES

SPLITS = ("train", "val", "test")
BACKGROUNDS = ("flat", "texture", "noise", "gradient")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Everything a sprite world depends on. Plain values only, so that it can be hashed and stored as JSON.

    seed: of the whole world. num_train, num_val, num_test: clips per split; test and val are limited by the
        number of combinations dealt to them (an InputError says how many there are).
    image_size: side of the square picture in pixels, even. fps: frames a second.
    seconds: (shortest, longest) clip.
    events_per_clip: (fewest, most) captioned events, one after the other, each with its own sprite.
    distractors: (fewest, most) sprites that no caption names, 0..6; their nouns differ from the events'.
    nouns, colours, textures, sizes, motions, backgrounds, tones: the words in use.
    camera_pan: highest speed of the background, pixels a second. brightness: largest relative change, per clip.
    captions_per_video: captions of every clip (test of the MSR-VTT layout keeps the first one).
    needle, needle_segments: with `needle`, the only event and its sprite appear in exactly one of
        `needle_segments` equal parts of the clip; all other frames are the same still picture.
    twins: share of the pairs (2j, 2j + 1) that are order twins; needs two events in every clip.
    heldout_pairs: share of the (noun, motion) pairs that occur in test only.
    crf, gop: H.264 quality and largest distance of keyframes in frames (None: one second).
    """

    seed: int = 0
    num_train: int = 1000
    num_val: int = 64
    num_test: int = 256
    image_size: int = 64
    fps: int = 8
    seconds: tuple[float, float] = (2.0, 2.0)
    events_per_clip: tuple[int, int] = (1, 1)
    distractors: tuple[int, int] = (0, 0)
    nouns: tuple[str, ...] = NOUNS
    colours: tuple[str, ...] = tuple(COLOURS)
    textures: tuple[str, ...] = TEXTURES
    sizes: tuple[str, ...] = tuple(SIZES)
    motions: tuple[str, ...] = MOTIONS
    backgrounds: tuple[str, ...] = BACKGROUNDS
    tones: tuple[str, ...] = tuple(TONES)
    camera_pan: float = 0.0
    brightness: float = 0.1
    captions_per_video: int = 5
    needle: bool = False
    needle_segments: int = 4
    twins: float = 0.0
    heldout_pairs: float = 0.1
    crf: int = 18
    gop: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):  # lists come from JSON and from configs
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
            if field.name in ("camera_pan", "brightness", "twins", "heldout_pairs"):
                value = float(value)
            if field.name == "seconds":
                value = tuple(float(v) for v in value)
            object.__setattr__(self, field.name, value)
        _check(self)

    def count(self, split: str) -> int:
        """Number of clips in `split`. Raises InputError for an unknown split."""
        if split not in SPLITS:
            raise InputError(f"split {split!r} is none of {', '.join(SPLITS)}")
        return getattr(self, f"num_{split}")


def _check(c: WorldConfig) -> None:
    def need(ok: bool, field: str, mend: str) -> None:
        if not ok:
            raise InputError(f"WorldConfig.{field} = {getattr(c, field)!r}: {mend}")

    known = {"nouns": NOUNS, "colours": COLOURS, "textures": TEXTURES, "sizes": SIZES, "motions": MOTIONS}
    for name, words in {**known, "backgrounds": BACKGROUNDS, "tones": TONES}.items():
        bad = [w for w in getattr(c, name) if w not in words]
        need(
            not bad and len(set(getattr(c, name))) == len(getattr(c, name)) > 0,
            name,
            f"use distinct words of {', '.join(words)}",
        )
    for name in ("num_train", "num_val", "num_test"):
        need(getattr(c, name) >= 0, name, "must be 0 or more")
    need(c.image_size >= 32 and c.image_size % 2 == 0, "image_size", "must be even (yuv420p video) and at least 32")
    need(c.fps >= 1, "fps", "must be at least 1")
    need(len(c.seconds) == 2 and 0.5 <= c.seconds[0] <= c.seconds[1], "seconds", "must be (min, max), at least 0.5")
    need(
        len(c.events_per_clip) == 2 and 1 <= c.events_per_clip[0] <= c.events_per_clip[1] <= 4,
        "events_per_clip",
        "must be (min, max) within 1..4",
    )
    need(
        len(c.distractors) == 2 and 0 <= c.distractors[0] <= c.distractors[1] <= 6,
        "distractors",
        "must be (min, max) within 0..6",
    )
    need(
        c.distractors[1] + c.events_per_clip[1] <= len(c.nouns),
        "distractors",
        f"needs as many other nouns; there are {len(c.nouns)} nouns in all",
    )
    need(0 <= c.camera_pan <= 64, "camera_pan", "must be within 0..64 pixels a second")
    need(0 <= c.brightness <= 0.5, "brightness", "must be within 0..0.5")
    need(c.captions_per_video >= 1, "captions_per_video", "must be at least 1")
    need(0 <= c.twins <= 1, "twins", "must be within 0..1")
    need(0 <= c.heldout_pairs <= 0.5, "heldout_pairs", "must be within 0..0.5")
    need(0 <= c.crf <= 51, "crf", "must be within 0..51")
    need(c.gop is None or c.gop >= 1, "gop", "must be None or at least 1")
    if c.needle:
        need(c.events_per_clip == (1, 1), "events_per_clip", "must be (1, 1) with needle=True")
        need(c.camera_pan == 0, "camera_pan", "must be 0 with needle=True: the rest of the clip is still")
        need(
            c.seconds[0] * c.fps >= 2 * c.needle_segments >= 4,
            "needle_segments",
            "must be 2 or more, with at least two frames a segment",
        )
    if c.twins > 0:
        need(c.events_per_clip == (2, 2), "events_per_clip", "must be (2, 2) when twins > 0")
        odd = [f"num_{s}" for s in SPLITS if c.count(s) % 2]
        need(not odd, "twins", f"twins come in pairs: make {' and '.join(odd)} even")
        need(len(combinations(c)["train"]) > 1, "twins", "needs a larger vocabulary")
    for split in ("val", "test"):
        have = len(combinations(c)[split])
        need(
            c.count(split) <= have,
            f"num_{split}",
            f"this vocabulary deals only {have} distinct events to {split}: use more words or fewer clips",
        )
    need(c.num_train == 0 or len(combinations(c)["train"]) > 0, "num_train", "no combination is left for training")


@dataclasses.dataclass(frozen=True)
class Sprite:
    """One thing on stage. size: longest extent as a share of the picture's side. depth: 0 is drawn first
    (at the back). on_stage: [first, last) frame in which it exists. event: index into `Clip.events`, or
    None for a distractor, whose `path` then runs over the whole clip."""

    id: int
    noun: str
    colour: str
    texture: str
    size_name: str
    size: float
    depth: int
    path: Path
    on_stage: tuple[int, int]
    event: int | None


@dataclasses.dataclass(frozen=True)
class Event:
    """A captioned motion. start, end: seconds from the first frame; sprite: id of the one that moves."""

    verb: str
    sprite: int
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Background:
    """kind of `BACKGROUNDS`, tone of `TONES`; brightness: factor on the whole picture; pan: (x, y) pixels a
    second; seed: of its pattern."""

    kind: str
    tone: str
    brightness: float
    pan: tuple[float, float]
    seed: int


@dataclasses.dataclass(frozen=True)
class Clip:
    """One planned clip. segment: which needle segment holds the event, or None. twin: index of its order
    twin in the split, or None. heldout: whether some event's (noun, motion) pair is a held-out one."""

    split: str
    index: int
    image_size: int
    fps: int
    num_frames: int
    background: Background
    sprites: tuple[Sprite, ...]
    events: tuple[Event, ...]
    captions: tuple[str, ...]
    segment: int | None
    twin: int | None
    heldout: bool

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.fps


def heldout_pairs(config: WorldConfig) -> frozenset[tuple[str, str]]:
    """The (noun, motion) pairs that occur in test only; see `sprites.deal.heldout_pairs`."""
    return deal.heldout_pairs(_vocabulary(config))


def combinations(config: WorldConfig) -> dict[str, tuple[Combination, ...]]:
    """Split -> its combinations, in the order in which items use them. The three lists share none."""
    return deal.combinations(_vocabulary(config))


def _vocabulary(config: WorldConfig) -> deal.Vocabulary:
    return deal.Vocabulary(*(getattr(config, f.name) for f in dataclasses.fields(deal.Vocabulary)))


def is_twin(config: WorldConfig, split: str, index: int) -> bool:
    """Whether item `index` belongs to a pair of order twins."""
    return config.twins > 0 and bool(keyed_rng(config.seed, split, "twin", index // 2).random() < config.twins)


def plan_clip(config: WorldConfig, split: str, index: int) -> Clip:
    """The plan of item `index` of `split` ('train', 'val', 'test'). Raises InputError outside the split."""
    if not 0 <= index < config.count(split):
        raise InputError(f"{split} item {index} does not exist: the split has {config.count(split)} clips")
    twin = is_twin(config, split, index)
    key = (split, "pair", index // 2) if twin else (split, "item", index)  # twins share everything but the order
    rng = keyed_rng(config.seed, *key)
    frames = max(4, round(float(rng.uniform(*config.seconds)) * config.fps))
    number = int(rng.integers(config.events_per_clip[0], config.events_per_clip[1] + 1))
    if twin:
        frames += frames % 2  # two slots of the same length
    chosen = _choose_events(config, split, index, number, twin, rng)

    slots = _slots(config, frames, number, rng)
    order = [1, 0] if twin and index % 2 else list(range(number))  # order[k]: which of `chosen` comes k-th
    sizes = [str(rng.choice(config.sizes)) for _ in chosen]
    paths = [plan_path(c[3], SIZES[s], rng) for c, s in zip(chosen, sizes)]
    margins = rng.uniform(0, 0.12, (number, 2))  # still time before and after the motion, share of the slot
    alone = number > 1 or config.needle
    sprites, events = [], []
    for k, which in enumerate(order):
        first, last = slots[k]
        start = (first + margins[which, 0] * (last - first)) / config.fps
        end = (last - 1 - margins[which, 1] * (last - first)) / config.fps
        noun, colour, texture, motion = chosen[which]
        stage = (first, last) if alone else (0, frames)
        look = (noun, colour, texture, sizes[which], SIZES[sizes[which]])
        sprites.append(Sprite(k, *look, depth=0, path=paths[which], on_stage=stage, event=k))
        events.append(Event(motion, k, round(start, 4), round(end, 4)))
    background = Background(
        kind=str(rng.choice(config.backgrounds)),
        tone=str(rng.choice(config.tones)),
        brightness=float(1 + rng.uniform(-config.brightness, config.brightness)),
        pan=(0.0, 0.0) if twin else tuple(float(v) for v in rng.uniform(-1, 1, 2) * config.camera_pan / 2**0.5),
        seed=int(rng.integers(2**31)),
    )
    still = twin or config.needle
    sprites += _distractors(config, [c[0] for c in chosen], number, frames, still, rng)
    depth = rng.permutation(len(sprites))
    places = [*order, *range(number, len(sprites))]  # a twin's sprites swap ids, not depths
    captions = wording.write_captions(
        [(c[0], c[1], c[2], s) for c, s in zip(chosen, sizes)],
        [c[3] for c in chosen],
        order,
        (background.kind, background.tone),
        config.captions_per_video,
        split == "test",
        rng,
    )
    held = heldout_pairs(config)
    return Clip(
        split=split,
        index=index,
        image_size=config.image_size,
        fps=config.fps,
        num_frames=frames,
        background=background,
        sprites=tuple(dataclasses.replace(s, depth=int(depth[place])) for s, place in zip(sprites, places)),
        events=tuple(events),
        captions=tuple(captions),
        segment=_segment_of(slots[0], frames, config.needle_segments) if config.needle else None,
        twin=(index ^ 1) if twin else None,
        heldout=any((c[0], c[3]) in held for c in chosen),
    )


def _choose_events(
    config: WorldConfig, split: str, index: int, number: int, twin: bool, rng: np.random.Generator
) -> list[Combination]:
    """The combinations of one clip. The first is dealt by index; the others are drawn, but a twin pair uses
    both of its dealt ones. All differ in noun or colour, so that a caption says which one is meant."""
    deal = combinations(config)[split]
    if twin:
        return [deal[(index // 2 * 2 + k) % len(deal)] for k in range(2)]
    chosen = [deal[index % len(deal)]]
    while len(chosen) < number:
        new = deal[int(rng.integers(len(deal)))]
        looks = {c[:2] for c in chosen}
        if new[:2] not in looks or len({c[:2] for c in deal}) <= len(looks):
            chosen.append(new)
    return chosen


def _slots(config: WorldConfig, frames: int, number: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """[first, last) frames of each event: equal parts of the clip, or one of the needle segments."""
    if config.needle:
        s = int(rng.integers(config.needle_segments))
        return [(-(-s * frames // config.needle_segments), -(-(s + 1) * frames // config.needle_segments))]
    edges = [k * frames // number for k in range(number + 1)]
    return list(itertools.pairwise(edges))


def _segment_of(slot: tuple[int, int], frames: int, segments: int) -> int:
    return slot[0] * segments // frames


def _distractors(
    config: WorldConfig, taken: list[str], first_id: int, frames: int, still: bool, rng: np.random.Generator
) -> list[Sprite]:
    """Sprites that no caption names: other nouns, half of them moving (none where the clip must be still)."""
    number = int(rng.integers(config.distractors[0], config.distractors[1] + 1))
    nouns = [n for n in config.nouns if n not in taken]
    nouns = [nouns[int(k)] for k in rng.permutation(len(nouns))[:number]]
    smallest = min(config.sizes, key=lambda s: SIZES[s])
    size = SIZES[smallest] * 0.85
    found = []
    for k, noun in enumerate(nouns):
        motion = str(rng.choice(config.motions)) if rng.random() < 0.5 and not still else "still"
        look = (noun, str(rng.choice(config.colours)), str(rng.choice(config.textures)), smallest, size)
        found.append(Sprite(first_id + k, *look, 0, plan_path(motion, size, rng), (0, frames), None))
    return found
