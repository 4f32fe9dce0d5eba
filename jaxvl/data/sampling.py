"""Which frames of a video a clip takes: index rules over `n` frames.

They have one signature, `(num_samples, num_frames, rng) -> [T] int64`, and are found by name in
`SAMPLERS`. A video shorter than the clip repeats its last frame; `valid_mask` tells those rows apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np

from jaxvl.core.errors import InputError

Sampler = Callable[[int, int, "np.random.Generator | None"], np.ndarray]


def uniform(num_samples: int, num_frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Middles of equal parts: `int(tick/2 + tick*i)` with `tick = n/T`; all frames, then the last, if n <= T.

    CenterCLIP's evaluation rule (section 4.1). Returns `[T]` int64; `rng` is not used.
    """
    _check(num_samples, num_frames)
    if num_frames > num_samples:
        tick = num_frames / num_samples
        return np.array([int(tick / 2.0 + tick * i) for i in range(num_samples)], np.int64)
    return np.clip(np.arange(num_samples, dtype=np.int64), 0, num_frames - 1)


def multi_segment(num_samples: int, num_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """One random frame in each of T segments of `n // T` frames (temporal segment networks, as CenterCLIP trains).

    The published rule: frames past `T * (n // T)` are never taken, and for T <= n < 2T the clip is the
    first T frames. `stratified` has neither property. Returns `[T]` int64, ascending.
    """
    _check(num_samples, num_frames)
    length = num_frames // num_samples
    if length == 0:
        return uniform(num_samples, num_frames)
    offsets = _needs_rng(rng, "multi_segment").integers(0, length, size=num_samples)
    return np.arange(num_samples, dtype=np.int64) * length + offsets


def stratified(num_samples: int, num_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """One random frame in each of T segments with edges `floor(i * n / T)`: every frame can be taken.

    Returns `[T]` int64, ascending; fewer frames than samples as in `uniform`.
    """
    _check(num_samples, num_frames)
    if num_frames < num_samples:
        return uniform(num_samples, num_frames)
    edges = np.arange(num_samples + 1, dtype=np.int64) * num_frames // num_samples
    return _needs_rng(rng, "stratified").integers(edges[:-1], edges[1:])


def random_sorted(num_samples: int, num_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """T different frames drawn at random, in order. Returns `[T]` int64; fewer frames than samples as in `uniform`."""
    _check(num_samples, num_frames)
    if num_frames <= num_samples:
        return uniform(num_samples, num_frames)
    picks = _needs_rng(rng, "random_sorted").choice(num_frames, size=num_samples, replace=False)
    return np.sort(picks).astype(np.int64)


def linspace(num_samples: int, num_frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Evenly from the first frame to the last, both included: `int(i (n - 1)/(T - 1))`; all frames, then the last, if
    n <= T.

    CLIP4Clip's rule in training and evaluation (arXiv 2104.08860, its `slice_framepos=2`). Returns `[T]` int64; `rng`
    is not used.
    """
    _check(num_samples, num_frames)
    if num_frames <= num_samples:
        return uniform(num_samples, num_frames)
    return np.linspace(0, num_frames - 1, num_samples, dtype=np.int64)


def head(num_samples: int, num_frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """The first T frames (CLIP4Clip's `slice_framepos=0`). Returns `[T]` int64; fewer frames as in `uniform`."""
    _check(num_samples, num_frames)
    return np.minimum(np.arange(num_samples, dtype=np.int64), num_frames - 1)


def tail(num_samples: int, num_frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """The last T frames (CLIP4Clip's `slice_framepos=1`). Returns `[T]` int64; fewer frames as in `uniform`."""
    return head(num_samples, min(num_frames, num_samples)) + max(0, num_frames - num_samples)


def interval_middles(num_samples: int, num_frames: int, begin: float = 0.0, end: float | None = None) -> np.ndarray:
    """Middles of equal intervals of the frames `begin` to `end` (default: all), rounded down twice.

    `e = linspace(begin, end, m + 1)` cut to whole numbers with m = min(T, n), frame i is `(e_i + e_{i+1} - 1) // 2`,
    never below 0; fewer than T frames repeat the last one. The rule of MIST's code (arXiv 2212.09522): a part of fewer
    than T frames gives repeats and may begin one frame early. Returns `[T]` int64.
    """
    _check(num_samples, num_frames)
    edges = np.linspace(begin, num_frames if end is None else end, min(num_samples, num_frames) + 1).astype(np.int64)
    middles = ((edges[:-1] + edges[1:] - 1) // 2).clip(0, num_frames - 1)
    return np.concatenate([middles, np.repeat(middles[-1:], num_samples - len(middles))])


SAMPLERS: dict[str, Sampler] = {
    "uniform": uniform,
    "official": multi_segment,
    "stratified": stratified,
    "random_sorted": random_sorted,
    "linspace": linspace,
    "head": head,
    "tail": tail,
}
"""By the name that a config takes; 'official' is what CenterCLIP trains with."""
FIXED = ("uniform", "linspace", "head", "tail")
"""Those that draw nothing, for evaluation."""
ORDERS = ("forward", "reversed", "random")
"""Of `frame_order`."""


def get_sampler(name: str) -> Sampler:
    """The index rule called `name`. Raises InputError with the nearest known name."""
    if name in SAMPLERS:
        return SAMPLERS[name]
    near = difflib.get_close_matches(str(name), SAMPLERS, 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown frame sampling {name!r}: {hint}known: {', '.join(SAMPLERS)}")


def valid_mask(num_samples: int, num_frames: int) -> np.ndarray:
    """`[T]` bool, True for the first `min(n, T)` rows: repeats of the last frame are not valid."""
    return np.arange(num_samples) < num_frames


def frame_order(order: str, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows `[T]` int64 that bring the valid frames of a clip, which come first, into an order of `ORDERS`: 'forward',
    'reversed', or 'random', a new permutation each time (CLIP4Clip's `frame_order` 0, 1, 2)."""
    rows, valid = np.arange(len(mask)), int(mask.sum())
    if order != "forward":
        rows[:valid] = rng.permutation(valid) if order == "random" else rows[:valid][::-1]
    return rows


def _check(num_samples: int, num_frames: int) -> None:
    if num_samples < 1 or num_frames < 1:
        raise ValueError(f"need at least one sample and one frame, got {num_samples} and {num_frames}")


def _needs_rng(rng: np.random.Generator | None, name: str) -> np.random.Generator:
    if rng is None:
        raise ValueError(f"{name} sampling draws at random: pass a numpy Generator")
    return rng
