"""Which poses are learned from where they are scarce: a share of some subjects, or the N that differ most."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.skeletons import H36M16
from jaxvl.ops.kinematics import bones

TRAINING = ("S1", "S5", "S6", "S7", "S8")
"""Human3.6M's subjects that may be learned from."""
FORM = re.compile(r"(?P<share>\d*\.?\d+)?S(?P<subjects>[15678]+)")
SPREAD = re.compile(r"seeds:(?P<count>\d+)")
MENDED = "needs subjects with or without a share, as S15678, S1, 0.01S1, or seeds:N for the N poses that differ most"


@dataclasses.dataclass(frozen=True)
class SeedRule:
    """subjects: of whose poses; share: of them, drawn without replacement; count: above 0, so many of them by
    `farthest` instead."""

    subjects: tuple[str, ...]
    share: float = 1.0
    count: int = 0


def parse_seeds(text: str) -> SeedRule:
    """`0.001S1, 0.5S1, S1, S15, S15678`: the share of these subjects' poses; `seeds:N`. Raises InputError."""
    if found := SPREAD.fullmatch(text):
        count = int(found["count"][:9])
        if count:
            return SeedRule(TRAINING, count=count)
    elif found := FORM.fullmatch(text):
        digits, share = found["subjects"], float(found["share"] or 1)
        if len(set(digits)) == len(digits) and 0 < share <= 1:
            return SeedRule(tuple(s for s in TRAINING if s[1:] in digits), share)
    raise InputError(f"config.data.seeds: {text[:80]!r} {MENDED}")


def choose(rule: SeedRule, poses: np.ndarray, seed: int) -> np.ndarray:
    """Rows of `poses` `[P, 16, 3]` (of the rule's subjects), ascending: `round(share * P)` of them, at least one, drawn
    by a generator of this seed; or the `count` of `farthest`. Raises InputError for more than there are."""
    if rule.count:
        if rule.count > len(poses):
            raise InputError(f"config.data.seeds: 'seeds:{rule.count}', but there are {len(poses):,} poses")
        return np.sort(farthest(poses, rule.count))
    if rule.share == 1:
        return np.arange(len(poses))
    count = max(1, round(rule.share * len(poses)))
    return np.sort(np.random.default_rng(seed).choice(len(poses), count, replace=False))


def farthest(poses: np.ndarray, count: int) -> np.ndarray:
    """Rows of `count` poses of `[P, 16, 3]` in the order in which farthest-point sampling takes them: first the one
    nearest the mean, then always the one whose nearest chosen one is farthest away. Joints are taken relative to the
    root and divided by the mean length of the pose's bones; of equal ones the first."""
    x = np.asarray(poses, np.float32)
    length = np.linalg.norm(bones(x, H36M16.parents)[:, 1:], axis=-1).mean(-1)
    flat = ((x - x[:, :1]) / np.maximum(length, 1e-9)[:, None, None]).reshape(len(x), -1)
    square = lambda point: ((flat - point) ** 2).sum(-1)  # noqa: E731
    chosen = [int(square(flat.mean(0)).argmin())]
    nearest = square(flat[chosen[0]])
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, square(flat[chosen[-1]]))
        nearest[chosen] = -1
    return np.array(chosen)
