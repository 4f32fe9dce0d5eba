"""The answers that a model of open questions can give: `vocab.json`, answer -> number."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import first_few, read_json
from jaxvl.data.readers.question_answering.questions import Questions

OUTSIDE = -1
"""The label of an answer that the vocabulary lacks."""


def read_vocabulary(path: str | os.PathLike) -> tuple[str, ...]:
    """The answers by number. Raises InputError: no such file, not `{answer: number}`, numbers that are not 0, 1, ..."""
    found = read_json(path, "the answer vocabulary")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{os.fspath(path)}: needs one object, {{answer: number}}")
    bad = [n for n in found.values() if isinstance(n, bool) or not isinstance(n, int)]
    if bad or sorted(found.values()) != list(range(len(found))):
        twice = f"{bad[0]!r} is no number" if bad else f"{len(found)} answers, {len(set(found.values()))} numbers"
        raise InputError(
            f"{os.fspath(path)}: the numbers of the answers are not 0 to {len(found) - 1} once each ({twice})"
        )
    return tuple(sorted(found, key=found.__getitem__))


def write_vocabulary(path: str | os.PathLike, answers: tuple[str, ...]) -> None:
    """Writes what `read_vocabulary` reads."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({answer: i for i, answer in enumerate(answers)}, ensure_ascii=False, indent=0)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def build_vocabulary(questions: Questions, size: int = 0) -> tuple[str, ...]:
    """The answers of a training split, most frequent first (ties: alphabetical); at most `size` of them unless 0."""
    counts = questions.answer_counts()
    order = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return tuple(order[: size or None])


def labels_of(questions: Questions, answers: tuple[str, ...]) -> np.ndarray:
    """int32 `[n]`: the number of each question's answer, `OUTSIDE` where the vocabulary lacks it."""
    number = {answer: i for i, answer in enumerate(answers)}
    table = np.array([number.get(text, OUTSIDE) for text in questions.texts["answers"]], np.int32)
    return table[questions.column("answer")]


def outside_note(questions: Questions, answers: tuple[str, ...]) -> str:
    """How many questions have an answer that cannot be given, with a few of these; '' where none has."""
    counts: Mapping[str, int] = questions.answer_counts()
    lost = {a: n for a, n in counts.items() if a not in set(answers)}
    if not lost:
        return ""
    total = sum(lost.values())
    return (
        f"{total:,} of {len(questions):,} questions have an answer outside the vocabulary of {len(answers):,} "
        f"({first_few(sorted(lost, key=lambda a: (-lost[a], a)))}): no training signal, wrong in evaluation"
    )
