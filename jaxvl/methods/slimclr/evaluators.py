"""How good the frozen features of every width are: kNN and a fitted linear probe; and accuracy of classifiers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Evaluator
from jaxvl.metrics.classification import accuracy
from jaxvl.metrics.knn import knn_scores
from jaxvl.metrics.linear_probe import probe_scores, shared_probe_scores

MONITORS = ("knn", "linear", "shared", "pixels")
KEPT = 2000
"""Queries whose features are kept beside the metrics."""


@dataclasses.dataclass(frozen=True)
class Frozen(Evaluator):
    """Features of the stream `bank` label those of `query`.

    names: of the widths. monitors: of `MONITORS`; 'linear' fits a classifier to each width, 'shared' one matrix of
    which narrower widths use the leading rows (the published ablation of the switchable classifier); 'pixels' adds what
    raw pixels give, for sets of small pictures.
    """

    names: tuple[str, ...]
    monitors: tuple[str, ...]
    k: int
    temperature: float
    classes: int
    l2: float
    streams: tuple[str, ...] = ("bank", "query")

    @classmethod
    def of(cls, config: ConfigDict, names: tuple[str, ...]) -> Frozen:
        """From `config.eval`. InputError for an unknown monitor."""
        e = config.eval
        unknown = set(e.monitors) - set(MONITORS)
        if unknown:
            raise InputError(f"config.eval.monitors: {sorted(unknown)[0]!r} is none of {', '.join(MONITORS)}")
        return cls(names, tuple(e.monitors), e.knn_k, e.knn_temperature, config.data.classes, e.probe_l2)

    def init(self) -> dict[str, Any]:
        """Empty lists, by stream."""
        return {s: {"label": [], "id": [], **{n: [] for n in self.rows}} for s in self.streams}

    @property
    def rows(self) -> tuple[str, ...]:
        """What is measured: the widths, and the pixels if asked for."""
        return (*self.names, *(("pixels",) if "pixels" in self.monitors else ()))

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """Features `[b, F w]` of every width with their labels."""
        for name in self.rows:
            acc[stream][name].append(outputs[f"features_{name}"])
        acc[stream]["label"] += [int(v) for v in examples["_label"]]
        acc[stream]["id"] += list(examples["_image_id"])
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """`knn/w100`, `linear/w100`, `shared/w100`, ...: top-1 in percent, and the numbers of pictures."""
        bank, query = (np.array(acc[s]["label"]) for s in self.streams)
        out: dict[str, float] = {"bank": len(bank), "query": len(query)}
        features = {n: tuple(np.concatenate(acc[s][n]) for s in self.streams) for n in self.rows}
        for name, (train, test) in features.items():
            if "knn" in self.monitors:
                scores = knn_scores(train, bank, test, self.classes, self.k, self.temperature)
                out[f"knn/{name}"] = accuracy(scores, query, (1,))["top1"]
            if "linear" in self.monitors:
                scores = probe_scores(train, bank, test, self.classes, self.l2)
                out[f"linear/{name}"] = accuracy(scores, query, (1,))["top1"]
        if "shared" in self.monitors:
            scores = shared_probe_scores({n: features[n] for n in self.names}, bank, self.classes, self.l2)
            out |= {f"shared/{n}": accuracy(s, query, (1,))["top1"] for n, s in scores.items()}
        return out

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """Features, labels and names of the first queries."""
        query = acc["query"]
        arrays = {f"features_{n}": np.concatenate(query[n])[:KEPT] for n in self.names}
        return {**arrays, "label": np.array(query["label"])[:KEPT], "image_id": np.array(query["id"])[:KEPT]}


@dataclasses.dataclass(frozen=True)
class Accuracy(Evaluator):
    """Top-1 and top-5 of every width's classifier over the stream `query`."""

    names: tuple[str, ...]
    streams: tuple[str, ...] = ("query",)

    def init(self) -> dict[str, list]:
        """Empty lists."""
        return {"label": [], **{n: [] for n in self.names}}

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """Logits `[b, classes]` of every width."""
        acc["label"] += [int(v) for v in examples["_label"]]
        for name in self.names:
            acc[name].append(outputs[f"logits_{name}"])
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """`top1/w100`, `top5/w100`, ... in percent; `ties/w100`: rows whose highest logit is not the only one."""
        labels, out = np.array(acc["label"]), {"query": float(len(acc["label"]))}
        for name in self.names:
            logits = np.concatenate(acc[name])
            out |= {f"{k}/{name}": v for k, v in accuracy(logits, labels).items()}
            ties = (logits == logits.max(1, keepdims=True)).sum(1) > 1
            if ties.any():
                out[f"ties/{name}"] = float(ties.sum())
        return out
