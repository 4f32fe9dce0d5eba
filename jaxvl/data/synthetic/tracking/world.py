"""Plans of the tracking world: drawn shapes that move at constant speed, bounce off the border, hide each other, and
sometimes are gone for a while.

Every shape has an identity and a box in every frame. In a share of the sequences all shapes look alike, so that only
their motion tells them apart. A sequence is a pure function of the config, its split and its number. No jax here.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic.sprites.deal import keyed_rng
from jaxvl.data.synthetic.sprites.motions import Path, State
from jaxvl.data.synthetic.sprites.shapes import COLOURS, NOUNS, TEXTURES, TONES
from jaxvl.data.synthetic.sprites.world import BACKGROUNDS, Background, Sprite

SPLITS = ("train", "test")
REACH = 0.6
"""Share of a shape's size by which its centre stays away from the border."""


@dataclasses.dataclass(frozen=True)
class TrackingWorldConfig:
    """Everything a tracking world depends on; plain values.

    seed: of the world. num_train, num_test: sequences. image_size: side in pixels, even. fps; frames: of a sequence.
    objects: (fewest, most) shapes of a sequence. alike: share of sequences whose shapes all look the same. absent:
    share of sequences in which the first shape is gone for a sixth of the time. speed: (least, most) shares of the side
    a frame. sizes: (least, most) extent, shares of the side. nouns: shapes in use.
    """

    seed: int = 0
    num_train: int = 60
    num_test: int = 20
    image_size: int = 64
    fps: int = 10
    frames: int = 60
    objects: tuple[int, int] = (3, 5)
    alike: float = 0.3
    absent: float = 0.3
    speed: tuple[float, float] = (0.005, 0.03)
    sizes: tuple[float, float] = (0.2, 0.35)
    nouns: tuple[str, ...] = NOUNS

    def __post_init__(self):
        for field in dataclasses.fields(self):  # lists come from JSON and from configs
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        unknown = [n for n in self.nouns if n not in NOUNS]
        if unknown or not self.nouns:
            raise InputError(f"config.data.world.nouns: {unknown[:1] or self.nouns} is none of {', '.join(NOUNS)}")
        if self.objects[0] > self.objects[1]:
            raise InputError(f"config.data.world.objects: {self.objects} needs (fewest, most)")

    def count(self, split: str) -> int:
        """Number of sequences in `split`."""
        return {"train": self.num_train, "test": self.num_test}[split]


@dataclasses.dataclass(frozen=True)
class Scene:
    """One planned sequence. states: one list a frame, an entry a sprite, None while it is gone. alike: whether all
    sprites look the same."""

    split: str
    index: int
    background: Background
    sprites: tuple[Sprite, ...]
    states: tuple[tuple[State | None, ...], ...]
    alike: bool


def plan_scene(config: TrackingWorldConfig, split: str, index: int) -> Scene:
    """Sequence `index` of `split`."""
    rng = keyed_rng(config.seed, split, "tracking", index)
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    alike = bool(rng.random() < config.alike)
    looks = [_look(config, rng) for _ in range(count)]
    looks = [looks[0]] * count if alike else looks
    depth = rng.permutation(count)
    sprites = tuple(
        Sprite(
            k, *look, "any", float(size), int(depth[k]), Path("still", (0.5, 0.5), (0.5, 0.5)), (0, config.frames), None
        )
        for k, (look, size) in enumerate(zip(looks, rng.uniform(*config.sizes, count)))
    )
    paths = [_walk(config, s.size, rng) for s in sprites]
    gone = range(0)
    if rng.random() < config.absent:
        long = max(1, config.frames // 6)
        start = int(rng.integers(config.frames // 3, max(config.frames // 3 + 1, config.frames - 2 * long)))
        gone = range(start, start + long)
    states = tuple(
        tuple(None if k == 0 and f in gone else path[f] for k, path in enumerate(paths)) for f in range(config.frames)
    )
    background = Background(
        kind=str(rng.choice(BACKGROUNDS)),
        tone=str(rng.choice(list(TONES))),
        brightness=float(rng.uniform(0.9, 1.1)),
        pan=(0.0, 0.0),
        seed=int(rng.integers(2**31)),
    )
    return Scene(split, index, background, sprites, states, alike)


def _look(config: TrackingWorldConfig, rng: np.random.Generator) -> tuple[str, str, str]:
    return str(rng.choice(config.nouns)), str(rng.choice(list(COLOURS))), str(rng.choice(TEXTURES))


def _walk(config: TrackingWorldConfig, size: float, rng: np.random.Generator) -> list[State]:
    """Constant velocity with reflection, the size swelling slowly by up to a fifth."""
    low, high = REACH * size, 1 - REACH * size
    at = rng.uniform(low, high, 2)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*config.speed)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    phase, swell = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.2)
    out = []
    for f in range(config.frames):
        out.append(State(float(at[0]), float(at[1]), float(1 + swell * np.sin(phase + f / 10))))
        at = at + velocity
        for axis in range(2):
            if not low <= at[axis] <= high:
                at[axis] = np.clip(2 * np.clip(at[axis], low, high) - at[axis], low, high)
                velocity[axis] *= -1
    return out
