"""MIST's evaluators: each benchmark's metrics, and how often the selector looked at the right segment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.method import Evaluator
from jaxvl.metrics import answer_roles
from jaxvl.metrics import question_answering as qa

KEPT = ("_question_id", "_groups", "_question", "_answer", "_vocabulary", "_segment")


@dataclasses.dataclass(frozen=True)
class AnswerEvaluator(Evaluator):
    """Accuracy in total and by type. Where the examples tell which segment holds the evidence (`_segment`), also
    `segment_recall_l`, the share of questions of which layer l gave some slot more than half to it, and
    `segment_weight_l`, the mean weight that a slot gave it; both in percent. Of 'hard' the first is the recall.

    metrics: `(logits, labels, {field: list}) -> {name: value}`, percent.
    """

    metrics: Callable[[np.ndarray, np.ndarray, Mapping[str, list]], dict[str, float]]
    streams: tuple[str, ...] = ("qa",)

    def init(self) -> dict[str, list]:
        """Nothing seen."""
        return {name: [] for name in ("logits", "label", *KEPT)}

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """One batch."""
        acc["logits"].append(outputs["logits"])
        acc["label"] += [int(x) for x in examples["_label"]]
        for name in KEPT:
            if name in examples:
                acc[name] += list(examples[name])
        for name, value in outputs.items():
            if name.startswith("segment_weights_"):
                acc.setdefault(name, []).append(value)
        return acc

    def compute(self, acc: Any) -> dict[str, float]:
        """The benchmark's metrics and the number of questions."""
        logits, labels = np.concatenate(acc["logits"]), np.array(acc["label"])
        out = self.metrics(logits, labels, acc) | {"questions": len(labels)}
        if acc["_segment"]:
            rows, segment = np.arange(len(labels)), np.array(acc["_segment"])
            for name in sorted(n for n in acc if n.startswith("segment_weights_")):
                own = np.concatenate(acc[name])[rows, :, segment]  # [questions, k]
                layer = name.removeprefix("segment_weights_")
                out[f"segment_recall_{layer}"] = qa.percent(own.max(1) > 0.5)
                out[f"segment_weight_{layer}"] = 100.0 * float(own.mean())
        return out

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """What was answered, by question."""
        return {
            "question_id": np.array(acc["_question_id"]),
            "predicted": np.concatenate(acc["logits"]).argmax(1).astype(np.int32),
            "label": np.array(acc["label"], np.int32),
        }


def open_answers(logits: np.ndarray, labels: np.ndarray, fields: Mapping[str, list]) -> dict[str, float]:
    """AGQA 2.0: acc@1, acc@10 and every type."""
    return qa.open_accuracy(logits, labels, fields["_groups"])


def nextqa(logits: np.ndarray, labels: np.ndarray, fields: Mapping[str, list]) -> dict[str, float]:
    """NExT-QA: in total, causal, temporal, descriptive, and each column of its tables."""
    return qa.nextqa_accuracy(qa.hits(logits, labels), [g["type"][0] for g in fields["_groups"]])


def star(logits: np.ndarray, labels: np.ndarray, fields: Mapping[str, list]) -> dict[str, float]:
    """STAR: the mean over its four types, and each; of the questions whose answer is published."""
    known = [i for i, label in enumerate(labels) if label >= 0]
    return qa.star_accuracy(qa.hits(logits[known], labels[known]), [fields["_groups"][i]["type"][0] for i in known])


@dataclasses.dataclass(frozen=True)
class EnvQA:
    """Env-QA: acc@1, acc@10, and the score by roles. space: file of the answer space."""

    space: str

    def __call__(self, logits: np.ndarray, labels: np.ndarray, fields: Mapping[str, list]) -> dict[str, float]:
        """The texts of the vocabulary come with the examples."""
        texts = [words[i] for words, i in zip(fields["_vocabulary"], logits.argmax(1), strict=True)]
        space = answer_roles.read_space(self.space)
        score = answer_roles.mean_role_score(fields["_question"], texts, fields["_answer"], space)
        return {"role_score": score, **qa.open_accuracy(logits, labels)}


def answer_space(config: ConfigDict) -> str:
    """The file of Env-QA's answer space, below the root unless it is absolute."""
    return str(Path(config.data.root) / config.data.answer_space)


EVALUATORS: dict[str, Callable[[ConfigDict], Evaluator]] = {
    "agqa": lambda config: AnswerEvaluator(open_answers),
    "nextqa": lambda config: AnswerEvaluator(nextqa),
    "star": lambda config: AnswerEvaluator(star),
    "envqa": lambda config: AnswerEvaluator(EnvQA(answer_space(config))),
}
"""By `config.data.reader`. Rendered worlds are read in the layout of one of these."""
