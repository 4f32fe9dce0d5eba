"""Env-QA (Gao et al., ICCV 2021): open questions, scored by role, about egocentric videos kept as frames.

`{train,val,test}_full_question.json` holds the questions, `env_qa_video_annotations_v1.json` which frames make a video:
`{video: {"frame_ids": ["FloorPlan1_physics_7_img_0001", ...]}}`, stored as `FloorPlan1_physics/7/FRAME_ID.png`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from jaxvl.core.errors import InputError
from jaxvl.data.frames import FrameFiles
from jaxvl.data.json_stream import stream_json
from jaxvl.data.readers.common import read_json
from jaxvl.data.readers.question_answering.questions import (
    QuestionReading,
    QuestionsBuilder,
    as_text,
    make_report,
    require,
)

DATASET = "Env-QA"
SPLITS = ("train", "val", "test")
VIDEOS = "env_qa_video_annotations_v1.json"
ROLES = ("action", "subjects", "prep", "objects", "state", "number", "yes/no", "order")
"""The roles of an answer, in the order of a prediction that is a list."""
_FRAME = re.compile(r"(FloorPlan.*?_physics)_(.*?)_img")


def read_envqa(root: str | os.PathLike, split: str) -> QuestionReading:
    """The questions of a split. Those whose question, answer or video is no text are skipped and counted, and so is a
    second one of the same id. Raises InputError: no such file, broken JSON, a missing field."""
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}; there are {', '.join(SPLITS)}")
    path = os.path.join(root, f"{split}_full_question.json")
    builder = QuestionsBuilder()
    for number, (_, item) in enumerate(stream_json(path, f"the questions of {DATASET}"), 1):
        require(item, ("question_id", "video_id", "question", "answer"), path, f"question number {number}")
        fields = {name: as_text(item[name]) for name in ("question_id", "video_id", "question", "answer")}
        lost = [name for name, value in fields.items() if value is None]
        if lost:
            builder.skip(fields["question_id"] or f"number {number}", f"{' and '.join(lost)} is no text")
            continue
        builder.add(fields["question_id"], fields["video_id"], fields["question"], fields["answer"])
    return QuestionReading(builder.build(), make_report(DATASET, split, builder))


def find_frames(
    root: str | os.PathLike, frames: str | os.PathLike, video_ids: Collection[str]
) -> tuple[dict[str, FrameFiles], int]:
    """`({video: its frames that exist, in the listed order}, number of listed frames that do not exist)`.

    A video without a frame is left out. Frames carry no rate: `timed` is False. Raises InputError: no such file, a
    frame name of another form.
    """
    path = os.path.join(root, VIDEOS)
    listed = read_json(path, f"the frames of the videos of {DATASET}")
    if not isinstance(listed, dict):
        raise InputError(f"{path}: needs one object, {{video: {{'frame_ids': [...]}}}}")
    found, lost = {}, 0
    for name in video_ids:
        if name not in listed:
            continue
        require(listed[name], ("frame_ids",), path, f"video {name}")
        files = [os.path.join(frames, _place(frame, path)) for frame in listed[name]["frame_ids"]]
        there = [file for file in files if os.path.isfile(file)]
        lost += len(files) - len(there)
        if there:
            found[name] = FrameFiles(os.path.join(os.fspath(frames), name), there)
    return found, lost


def _place(frame: str, path: str) -> str:
    match = _FRAME.match(str(frame))
    if match is None:
        raise InputError(f"{path}: the frame {frame!r} is not named FloorPlan..._physics_VIDEO_img...")
    return os.path.join(match.group(1), match.group(2), f"{frame}.png")
