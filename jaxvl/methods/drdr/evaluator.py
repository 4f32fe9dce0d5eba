"""Accuracy per domain, by the path that belongs to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.method import Evaluator
from jaxvl.methods.drdr.task import Task
from jaxvl.metrics import classification


@dataclasses.dataclass(frozen=True)
class DomainAccuracy(Evaluator):
    """Top-1 over all images of each domain of a split, in percent (section 6).

    Sources are classified without the orthogonal layer, targets and unseen domains with it; of an unseen one the other
    path is reported too. `accuracy` is the plain mean over the unseen domains if there are any, else over all.
    """

    task: Task
    classes: int

    def init(self) -> dict[str, dict[str, list]]:
        """Nothing seen."""
        return {}

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """One batch of the domain `stream`."""
        seen = acc.setdefault(stream, {name: [] for name in ("source", "target", "label", "id", "features")})
        seen["source"].append(outputs["source_logits"])
        seen["target"].append(outputs["target_logits"])
        seen["features"].append(outputs["features" if stream in self.task.sources else "turned"])
        seen["label"] += list(examples["_label"])
        seen["id"] += list(examples["_id"])
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """`accuracy`, `accuracy/DOMAIN`, `mean_per_class/DOMAIN`, `images/DOMAIN`."""
        out: dict[str, float] = {}
        for domain, seen in acc.items():
            labels = np.array(seen["label"])
            path = "source" if domain in self.task.sources else "target"
            scores = {p: classification.top_k(np.concatenate(seen[p]))[:, 0] for p in ("source", "target")}
            out[f"accuracy/{domain}"] = 100.0 * float((scores[path] == labels).mean())
            out[f"mean_per_class/{domain}"] = classification.mean_per_class(scores[path], labels, self.classes)
            out[f"images/{domain}"] = len(labels)
            if domain in self.task.external:
                out[f"source_path/{domain}"] = 100.0 * float((scores["source"] == labels).mean())
        averaged = [d for d in acc if d in self.task.external] or list(acc)
        return {"accuracy": float(np.mean([out[f"accuracy/{d}"] for d in averaged])), **out}

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """Labels, predictions and features of each domain, for the report and for figures."""
        out = {}
        for domain, seen in acc.items():
            path = "source" if domain in self.task.sources else "target"
            out[f"{domain}/id"], out[f"{domain}/label"] = np.array(seen["id"]), np.array(seen["label"])
            out[f"{domain}/predicted"] = np.concatenate(seen[path]).argmax(1)
            out[f"{domain}/features"] = np.concatenate(seen["features"]).astype(np.float32)
        return out
