"""STAR (Wu et al., NeurIPS 2021): situated reasoning in parts of Charades videos, four options a question."""

from __future__ import annotations

import math
import os
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.json_stream import stream_json
from jaxvl.data.readers.question_answering.questions import (
    NO_LABEL,
    QuestionReading,
    QuestionsBuilder,
    as_text,
    make_report,
    require,
)

DATASET = "STAR"
SPLITS = ("train", "val", "test")
TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")
FIELDS = ("question_id", "question", "video_id", "start", "end", "choices")


def read_star(root: str | os.PathLike, split: str) -> QuestionReading:
    """The questions of `STAR_{split}.json`; group `type` is what stands before the first `_` of their id.

    The right option is the `choice_id` whose text is `answer`; option i is the choice of that id. The answers of the
    test split are kept by the authors: without one the label is -1. Raises InputError: no such file, broken JSON, a
    missing field, an answer that is not exactly one of the choices, choices that are not numbered from 0 or of another
    number than before, an id that begins with none of the four types, a time that is no number.
    """
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}; there are {', '.join(SPLITS)}")
    path = os.path.join(root, f"STAR_{split}.json")
    builder, open_ = QuestionsBuilder(("type",)), 0
    for number, (_, item) in enumerate(stream_json(path, f"the questions of {DATASET}"), 1):
        require(item, FIELDS, path, f"question number {number}")
        fields = {name: as_text(item[name]) for name in ("question_id", "question", "video_id")}
        question_id = fields["question_id"] or f"number {number}"
        lost = [name for name, value in fields.items() if value is None]
        if lost:
            builder.skip(question_id, f"{' and '.join(lost)} is no text")
            continue
        where = f"{path}: question {question_id}"
        options = _options(item["choices"], where)
        label, answer = NO_LABEL, as_text(item.get("answer")) or ""
        if answer:
            right = [i for i, text in enumerate(options) if text == answer]
            if len(right) != 1:
                raise InputError(
                    f"{where}: the answer {answer!r} is {len(right)} of its choices; it must be exactly one"
                )
            label = right[0]
        else:
            open_ += 1
            if split != "test":
                raise InputError(f"{where}: has no answer; only the test split comes without")
        span = (_seconds(item["start"], where), _seconds(item["end"], where))
        if span[1] < span[0] or span[0] < 0:
            raise InputError(f"{where}: the part {span[0]:g} to {span[1]:g} s is inverted or before the video")
        kind = question_id.split("_", 1)[0]
        if kind not in TYPES:
            raise InputError(f"{where}: its id begins with none of the types {', '.join(TYPES)}")
        if len(builder) and len(options) != builder.num_options:
            raise InputError(f"{where}: has {len(options)} choices, those before it {builder.num_options}")
        builder.add(
            question_id,
            fields["video_id"],
            fields["question"],
            answer,
            options=options,
            label=label,
            span=span,
            groups={"type": (kind,)},
        )
    notes = [f"{open_:,} without a published answer: predictions only, no score"] if open_ else []
    return QuestionReading(builder.build(), make_report(DATASET, split, builder, notes))


def _options(choices: Any, where: str) -> list[str]:
    if not isinstance(choices, list) or not choices:
        raise InputError(f"{where}: choices is not a list of choices")
    texts: dict[int, str] = {}
    for choice in choices:
        require(choice, ("choice_id", "choice"), where, "a choice")
        text, number = as_text(choice["choice"]), choice["choice_id"]
        if text is None or not isinstance(number, int):
            raise InputError(f"{where}: the choice {choice!r} has no text or no number")
        texts[number] = text
    if sorted(texts) != list(range(len(choices))):
        raise InputError(f"{where}: its choices are numbered {sorted(c['choice_id'] for c in choices)}, not from 0 on")
    return [texts[i] for i in range(len(texts))]


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: the time {value!r} is no number of seconds")
    return float(value)
