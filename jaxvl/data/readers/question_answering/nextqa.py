"""NExT-QA (Xiao et al., CVPR 2021): five options a question, `{train,val,test}.csv`."""

from __future__ import annotations

import os

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import read_csv, read_json
from jaxvl.data.readers.question_answering.questions import NO_LABEL, QuestionReading, QuestionsBuilder, make_report

DATASET = "NExT-QA"
SPLITS = ("train", "val", "test")
OPTIONS = ("a0", "a1", "a2", "a3", "a4")
TYPES = ("CW", "CH", "TN", "TC", "TP", "DO", "DL", "DC")
VIDEO_COLUMNS = ("video", "video_id")
VIDEO_MAP = "map_vid_vidorID.json"


def read_nextqa(root: str | os.PathLike, split: str) -> QuestionReading:
    """The questions of a split; their id is `VIDEO_QID`, their group `type` one of CW CH TN TC TP DO DL DC.

    The video's column may be `video` (published) or `video_id` (MIST); `answer` the number 0 to 4, or its text
    (NExT-GQA), in the whole file alike. Rows with an empty field are skipped and counted, and so is a second one of the
    same id. Raises InputError: no such file, a missing column, an unknown type, an answer that is none of the options
    or two of them.
    """
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}; there are {', '.join(SPLITS)}")
    path = os.path.join(root, f"{split}.csv")
    rows = read_csv(path, ("question", "answer", "qid", "type", *OPTIONS), f"the questions of {DATASET}")
    column = next((name for name in VIDEO_COLUMNS if rows and name in rows[0]), None)
    if rows and column is None:
        raise InputError(f"{path}: needs a column video (or video_id); it has {', '.join(map(str, rows[0]))}")
    builder = QuestionsBuilder(("type",))
    numbers = all(_number(row["answer"]) is not None for row in rows if row["answer"].strip())
    for line, row in enumerate(rows, 2):
        question_id = f"{row[column].strip()}_{row['qid'].strip()}"
        texts = {name: row[name].strip() for name in ("question", "answer", column, "qid", *OPTIONS)}
        empty = [name for name, text in texts.items() if not text]
        if empty:
            builder.skip(question_id, f"{' and '.join(empty)} is empty")
            continue
        kind = row["type"].strip()
        if kind not in TYPES:
            raise InputError(
                f"{path}: question {question_id} (row {line}): the type {kind!r} is none of {', '.join(TYPES)}"
            )
        options = [texts[name] for name in OPTIONS]
        label = _number(texts["answer"]) if numbers else _which(options, texts["answer"])
        if label is None or not 0 <= label < len(options):
            raise InputError(
                f"{path}: question {question_id} (row {line}): the answer {texts['answer']!r} is not exactly one of "
                f"the options: give 0 to {len(options) - 1}, or the text of one option"
            )
        builder.add(
            question_id,
            texts[column],
            texts["question"],
            options[label],
            options=options,
            label=label,
            groups={"type": (kind,)},
        )
    return QuestionReading(builder.build(), make_report(DATASET, split, builder))


def read_video_map(root: str | os.PathLike) -> dict[str, str]:
    """`map_vid_vidorID.json`, `{video: path of its file without ending}`; empty where it is not there."""
    path = os.path.join(root, VIDEO_MAP)
    if not os.path.isfile(path):
        return {}
    found = read_json(path, f"the paths of the videos of {DATASET}")
    if not isinstance(found, dict):
        raise InputError(f"{path}: needs one object, {{video: path}}")
    return {str(name): str(value) for name, value in found.items()}


def _number(text: str) -> int | None:
    """`3` or, as data frames write a column with a gap, `3.0`; None for anything else."""
    whole = text.strip().removesuffix(".0")
    return int(whole) if whole.isdecimal() else None


def _which(options: list[str], answer: str) -> int | None:
    return options.index(answer) if options.count(answer) == 1 else NO_LABEL
