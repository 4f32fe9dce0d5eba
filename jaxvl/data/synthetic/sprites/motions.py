"""How a sprite moves: each motion is a pure function of progress through its event.

Coordinates are shares of the picture's side: (0, 0) top left, (1, 1) bottom right, y down. A motion is
planned once (`plan_path`, which draws its free numbers from a generator) and then asked for the state at
any progress `u` in [0, 1] (`state_at`); before the event a sprite rests at `u = 0`, after it at `u = 1`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

MOTIONS: tuple[str, ...] = (
    "left", "right", "up", "down", "circle", "zigzag", "bounce", "shake", "spin", "blink", "grow", "shrink",
    "fade_in", "fade_out", "enter_left", "enter_right", "leave_left", "leave_right",
)  # fmt: skip
"""All eighteen motions."""

ORDER_FREE_MOTIONS: tuple[str, ...] = ("left", "up", "circle", "zigzag", "bounce", "shake", "spin", "blink", "grow")
"""Motions that can be told apart from the *set* of a clip's frames, without their order: one of each pair
that is the other one played backwards. A model that averages over frames can learn these."""

_EDGE = 0.02  # free border of the picture, share of its side
_SMALLEST = 0.45  # scale at the small end of grow and shrink


@dataclasses.dataclass(frozen=True)
class State:
    """A sprite at one moment. x, y: centre, shares of the side. scale: times its size. angle: radians,
    clockwise on the screen. opacity: 0..1."""

    x: float
    y: float
    scale: float = 1.0
    angle: float = 0.0
    opacity: float = 1.0


@dataclasses.dataclass(frozen=True)
class Path:
    """The free numbers of one motion. start, end: (x, y) centres at progress 0 and 1 of the straight part;
    turn: +1 or -1, direction of circling and spinning; phase: radians, where a circle begins; reach: size
    of the detour (circle radius, height of a hop, of a zigzag or of a shake), share of the side."""

    motion: str
    start: tuple[float, float]
    end: tuple[float, float]
    turn: float = 1.0
    phase: float = 0.0
    reach: float = 0.0


def plan_path(motion: str, size: float, rng: np.random.Generator) -> Path:
    """Draws a path of `motion` for a sprite of `size` (share of the side, <= 0.6). The sprite stays inside
    the picture at all times, but for `enter_*` (begins outside) and `leave_*` (ends outside)."""
    low, high = size / 2 + _EDGE, 1 - size / 2 - _EDGE
    room = high - low

    def inside(margin: float = 0.0) -> float:
        return float(rng.uniform(low + margin, high - margin)) if high - low > 2 * margin else 0.5

    near_low, near_high = low + float(rng.uniform(0, 0.12)) * room, high - float(rng.uniform(0, 0.12)) * room
    x, y = inside(), inside()
    turn = float(rng.choice([-1.0, 1.0]))
    phase = float(rng.uniform(0, 2 * math.pi))
    middle = float(rng.uniform(low + 0.3 * room, high - 0.3 * room))
    if motion in ("left", "right"):
        ends = (near_high, near_low) if motion == "left" else (near_low, near_high)
        return Path(motion, (ends[0], y), (ends[1], y))
    if motion in ("up", "down"):
        ends = (near_high, near_low) if motion == "up" else (near_low, near_high)
        return Path(motion, (x, ends[0]), (x, ends[1]))
    if motion == "circle":
        reach = min(0.26, room / 2)
        centre = (inside(reach), inside(reach))
        return Path(motion, centre, centre, turn, phase, reach)
    if motion == "zigzag":
        reach = min(0.2, room / 2)
        ends = (near_low, near_high) if turn > 0 else (near_high, near_low)
        y = inside(reach)
        return Path(motion, (ends[0], y), (ends[1], y), turn, 0.0, reach)
    if motion == "bounce":
        return Path(motion, (x, near_high), (x, near_high), reach=min(0.4, near_high - low))
    if motion == "shake":
        reach = min(0.12, room / 2)
        x = inside(reach)
        return Path(motion, (x, y), (x, y), turn, reach=reach)
    if motion.startswith("enter"):
        outside = -size / 2 - _EDGE if motion.endswith("left") else 1 + size / 2 + _EDGE
        return Path(motion, (outside, y), (middle, y))
    if motion.startswith("leave"):
        outside = -size / 2 - _EDGE if motion.endswith("left") else 1 + size / 2 + _EDGE
        return Path(motion, (middle, y), (outside, y))
    if motion in ("spin", "blink", "grow", "shrink", "fade_in", "fade_out", "still"):
        return Path(motion, (x, y), (x, y), turn)
    raise KeyError(motion)


def state_at(path: Path, u: float) -> State:
    """The sprite's state at progress `u` of its event, clipped to [0, 1]."""
    u = min(max(u, 0.0), 1.0)
    x = path.start[0] + (path.end[0] - path.start[0]) * u
    y = path.start[1] + (path.end[1] - path.start[1]) * u
    m = path.motion
    if m == "circle":
        a = path.phase + path.turn * 2 * math.pi * u
        return State(x + path.reach * math.cos(a), y + path.reach * math.sin(a))
    if m == "zigzag":  # three teeth: a triangle wave that begins and ends at 0
        wave = 2 / math.pi * math.asin(math.sin(2 * math.pi * 1.5 * u))
        return State(x, y + path.reach * wave)
    if m == "bounce":  # three hops on the floor
        return State(x, y - path.reach * abs(math.sin(3 * math.pi * u)))
    if m == "shake":
        return State(x + path.reach * path.turn * math.sin(2 * math.pi * 4 * u), y)
    if m == "spin":
        return State(x, y, angle=path.turn * 2 * math.pi * u)
    if m == "blink":  # three times off
        return State(x, y, opacity=1.0 if math.cos(2 * math.pi * 3 * u) > -0.2 else 0.0)
    if m in ("grow", "shrink"):
        part = u if m == "grow" else 1 - u
        return State(x, y, scale=_SMALLEST + (1 - _SMALLEST) * part)
    if m in ("fade_in", "fade_out"):
        return State(x, y, opacity=u if m == "fade_in" else 1 - u)
    return State(x, y)
