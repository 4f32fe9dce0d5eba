"""A trained model in Python: the verbs of its task, numpy arrays in and out. What `jaxvl.load` gives."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError

VERBS = {
    "encode_text": "texts -> one unit vector each",
    "encode_image": "pictures -> one vector each",
    "encode_video": "videos -> one unit vector each",
    "similarity": "texts and pictures or videos (or their vectors) -> a cosine for every pair",
    "classify": "pictures -> probabilities of classes",
    "embed": "pictures or videos -> one vector each",
    "hidden_states": "texts or pictures -> the stream behind every layer",
    "answer": "a video and questions -> answers with their evidence",
    "recognise": "skeleton sequences -> probabilities of actions",
    "track": "a video -> boxes of one object or of all",
    "lift": "joints in 2-D -> joints in 3-D",
    "generate": "-> drawn examples with their densities",
    "localise": "a video and texts -> spans in seconds with scores",
}
"""The verbs there are, for all methods: one name for one thing. A model has those of its task."""


class Model:
    """What a method's `files.Model` and the models of weights folders derive from.

    Verbs take file paths or arrays, do batching and padding inside, and return numpy float32. A file that cannot be
    decoded raises `BadMedia`, wrong input `InputError`, both one line.
    """

    name: str = "model"
    source: str = ""

    @property
    def verbs(self) -> tuple[str, ...]:
        """Names of the verbs that this model has."""
        return tuple(v for v in VERBS if callable(getattr(self, v, None)))

    def __repr__(self) -> str:
        signatures = ", ".join(f"{v}{inspect.signature(getattr(self, v))}" for v in self.verbs)
        return f"<{self.name} from {self.source}: {signatures}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Classified:
    """Probabilities of K classes. names: K; probability: `[n, K]` float32, rows sum to 1."""

    names: tuple[str, ...]
    probability: np.ndarray

    @property
    def best(self) -> list[str]:
        """The most probable class of each."""
        return [self.names[i] for i in self.probability.argmax(1)]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The `k` most probable classes of each with their probability; of equal ones the earlier first."""
        if not 1 <= k <= len(self.names):
            raise InputError(f"top {k}: needs 1 to {len(self.names)}, the number of classes")
        order = np.argsort(-self.probability, axis=1, kind="stable")[:, :k]
        return [[(self.names[i], float(p[i])) for i in row] for p, row in zip(self.probability, order)]


def in_batches(
    call: Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]], fields: Mapping[str, np.ndarray], size: int
) -> dict[str, np.ndarray]:
    """`call` on `size` rows of `fields` at a time, the last block filled up with rows of its own, so that one shape is
    compiled; the outputs joined, without what filled up. Needs at least one row."""
    count = len(next(iter(fields.values())))
    parts: dict[str, list[np.ndarray]] = {}
    for begin in range(0, count, size):
        rows = begin + np.arange(size) % min(size, count - begin)
        out = call({name: x[rows] for name, x in fields.items()})
        for name, value in out.items():
            parts.setdefault(name, []).append(np.asarray(value)[: min(size, count - begin)])
    return {name: np.concatenate(values) for name, values in parts.items()}


def listed(given: Any, what: str) -> list[Any]:
    """`given` as a list. A single one, or none at all, raises InputError: a string is a sequence, too."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray):
        raise InputError(f"{what}: needs a list, got {type(given).__name__}; put a single one in brackets")
    if len(given) == 0:
        raise InputError(f"{what}: is empty")
    return list(given)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[n, E]`, `[m, E]` unit vectors -> `[n, m]` float32."""
    return (np.asarray(a, np.float32) @ np.asarray(b, np.float32).T).astype(np.float32)


def is_vectors(given: Any) -> bool:
    """Whether `given` is a matrix of vectors `[n, E]` rather than what is still to be encoded."""
    return isinstance(given, np.ndarray) and given.ndim == 2 and np.issubdtype(given.dtype, np.floating)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float32; a row of zeros stays."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
