"""AGQA 2.0 (Grunde-McLaughlin et al., arXiv 2204.06105): open questions about Charades videos.

As published, `AGQA_balanced/{train,test}_balanced.txt`: one JSON object, id -> question. In the copy of MIST's authors,
`agqa_{train,val}.jsonl`: one JSON list (their "val" is the public test split). There is no validation split: it is cut
out of the training videos (`Questions.split_videos`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.json_stream import stream_json
from jaxvl.data.readers.common import near
from jaxvl.data.readers.question_answering.questions import (
    QuestionReading,
    QuestionsBuilder,
    as_text,
    make_report,
    require,
)

DATASET = "AGQA 2.0"
SPLITS = ("train", "test")
FILES = {
    "train": ("AGQA_balanced/train_balanced.txt", "train_balanced.txt", "agqa_train.jsonl"),
    "test": ("AGQA_balanced/test_balanced.txt", "test_balanced.txt", "agqa_val.jsonl"),
}
GROUPS = ("global", "ans_type", "semantic", "structural", "compositional")
FLAGS = ("novel_comp", "nc_seq", "nc_sup", "nc_dur", "nc_objrel", "more_steps")
"""Fields of a question that are 1 where it belongs to a compositional split."""


def find_agqa(root: str | os.PathLike, split: str) -> str:
    """The annotation file of a split. Raises InputError where none of the known names is there."""
    if split not in FILES:
        raise InputError(f"{DATASET} has no split {split!r}; there are {', '.join(SPLITS)}")
    paths = [os.path.join(root, name) for name in FILES[split]]
    for path in paths:
        if os.path.isfile(path):
            return path
    raise InputError(f"{os.fspath(root)}: holds none of {', '.join(FILES[split])} ({DATASET}){near(paths[1])}")


def read_agqa(root: str | os.PathLike, split: str) -> QuestionReading:
    """The questions of 'train' or 'test', in the order of the file, read item by item.

    Question, answer or video that are no text are skipped and counted, and so is a second question of the same id.
    Raises InputError: no such file, broken or cut JSON, a question without one of its fields.
    """
    path = find_agqa(root, split)
    builder = QuestionsBuilder(GROUPS)
    plain = 0
    for number, (key, item) in enumerate(stream_json(path, f"the questions of {DATASET}"), 1):
        where = f"question {key if key is not None else number}"
        require(item, ("question", "answer", "video_id"), path, where)
        question_id = key if key is not None else as_text(item.get("question_id"))
        if question_id is None:
            raise InputError(f"{path}: {where} has no question_id")
        fields = {name: as_text(item[name]) for name in ("question", "answer", "video_id")}
        lost = [name for name, value in fields.items() if value is None]
        if lost:
            builder.skip(question_id, f"{' and '.join(lost)} is no text")
            continue
        groups = _groups(item, f"{path}: {where}")
        plain += not groups["global"]
        builder.add(question_id, fields["video_id"], fields["question"], fields["answer"], groups=groups)
    notes = [f"{plain:,} without question types, which only the public file has"] if plain else []
    report = make_report(DATASET, split, builder, notes)
    return QuestionReading(builder.build(), report)


def _groups(item: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    kinds = item.get("global") or ()
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds) if isinstance(kinds, list) else kinds
    if not isinstance(kinds, tuple) or not all(isinstance(kind, str) for kind in kinds):
        raise InputError(f"{where}: global {item['global']!r} is no list of types")
    one = lambda *names: next(((str(item[n]),) for n in names if item.get(n)), ())  # noqa: E731
    return {
        "global": kinds,
        "ans_type": one("ans_type", "answer_type"),
        "semantic": one("semantic"),
        "structural": one("structural"),
        "compositional": tuple(name for name in FLAGS if item.get(name) in (1, True, "1")),
    }
