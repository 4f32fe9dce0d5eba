"""Accuracy over all clips, of every class, and of the pairs of classes that are hard to tell apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.method import Evaluator
from jaxvl.metrics import classification


@dataclasses.dataclass(frozen=True)
class ActionAccuracy(Evaluator):
    """`top1` and `top5` over all clips (pooled, not a mean over classes), `mean_per_class`, `class/N` for every class N
    (from 1) with clips, and for every pair of `pairs` with clips of both: `pair/A-B`, the share of their clips that are
    recognised, and `confused/A-B`, the share that is taken for the other of the two. All in percent. `clips`: how many.

    Several rows of one `_id` are crops of one clip: their probabilities are averaged.
    """

    classes: int
    pairs: tuple[tuple[int, int], ...] = ()
    streams: tuple[str, ...] = ("clips",)

    def init(self) -> dict[str, list]:
        """Nothing seen."""
        return {"logits": [], "label": [], "id": []}

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """One batch."""
        acc["logits"].append(np.asarray(outputs["logits"], np.float32))
        acc["label"] += [int(x) for x in examples["_label"]]
        acc["id"] += list(examples["_id"])
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """The metrics."""
        _, scores, labels = by_clip(acc)
        predicted = classification.top_k(scores)[:, 0]
        out = classification.accuracy(scores, labels, (1, 5) if self.classes > 5 else (1,))
        recall = classification.per_class_accuracy(predicted, labels, self.classes)
        out["mean_per_class"] = float(np.nanmean(recall))
        out["clips"] = len(labels)
        confusion = classification.confusion(predicted, labels, self.classes)
        for a, b in self.pairs:
            if max(a, b) > self.classes:
                continue
            part = confusion[[a - 1, b - 1]]
            if part.sum(1).min() > 0:
                right, total = part[0, a - 1] + part[1, b - 1], part.sum()
                out[f"pair/{a}-{b}"] = 100.0 * float(right / total)
                out[f"confused/{a}-{b}"] = 100.0 * float((part[0, b - 1] + part[1, a - 1]) / total)
        return out | {f"class/{k + 1}": float(v) for k, v in enumerate(recall) if np.isfinite(v)}

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """By clip its name, label, prediction and probabilities, and the confusion matrix (rows are true)."""
        ids, scores, labels = by_clip(acc)
        predicted = classification.top_k(scores)[:, 0].astype(np.int32)
        return {
            "id": np.array(ids),
            "label": labels.astype(np.int32),
            "predicted": predicted,
            "probability": scores.astype(np.float32),
            "confusion": classification.confusion(predicted, labels, self.classes),
        }


def by_clip(acc: Mapping[str, list]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """`(names, probabilities [clips, K] float64, labels [clips])`, the mean over the rows of each name, in order of
    their first rows."""
    logits = np.concatenate(acc["logits"]).astype(np.float64)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    place: dict[str, int] = {}
    rows = np.array([place.setdefault(name, len(place)) for name in acc["id"]])
    total, count = np.zeros((len(place), logits.shape[1])), np.bincount(rows, minlength=len(place))
    np.add.at(total, rows, share)
    labels = np.zeros(len(place), np.int64)
    labels[rows] = acc["label"]
    return list(place), total / count[:, None], labels
