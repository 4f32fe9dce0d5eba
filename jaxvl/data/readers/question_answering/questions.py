"""Questions as columns of numpy arrays: 1.6 million of them in a few hundred megabytes, on disk once for all workers.

Texts are kept once however often they occur; a question is put together when it is asked for. `save` writes the columns
to a folder and `Questions.open` maps them, so that worker processes share the pages instead of holding a copy each.

FOLDER/table.json    written last: version, count, names of the groups, report of the reader
FOLDER/*.npy         the columns
"""

from __future__ import annotations

import array
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.data.readers.common import Report, read_json

VERSION = 1
TABLE = "table.json"
NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    question_id (unique), video_id: as published. question: its text. answer: the text of the right answer, '' where it
    is not published. options: of multiple choice, in the order of the labels; label: which of them is right, -1 without
    options or answer. start_s, end_s: the part of the video that is meant, in seconds. groups: the types it belongs to,
    by the name of the classification. text_index: the same number for the same question text.
    """

    question_id: str
    video_id: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    label: int = NO_LABEL
    start_s: float | None = None
    end_s: float | None = None
    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    text_index: int = 0


@dataclasses.dataclass(frozen=True)
class QuestionReading:
    """A split that was read, with the reader's report."""

    questions: Questions
    report: Report


class Texts(Sequence):
    """Many texts in one array of bytes: `data` uint8, `ends` int64 `[n]`."""

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i):
        """One text; a negative number counts from the end."""
        i = range(len(self.ends))[i]
        begin = int(self.ends[i - 1]) if i else 0
        return self.data[begin : int(self.ends[i])].tobytes().decode("utf-8", "surrogatepass")


class _TextsBuilder:
    def __init__(self):
        self.data, self.ends = bytearray(), array.array("q")

    def add(self, text: str) -> int:
        self.data += text.encode("utf-8", "surrogatepass")
        self.ends.append(len(self.data))
        return len(self.ends) - 1

    def build(self) -> Texts:
        return Texts(np.frombuffer(self.data, np.uint8), np.frombuffer(self.ends, np.int64))


class _Pool:
    """Different texts, each once."""

    def __init__(self):
        self.texts, self.numbers = _TextsBuilder(), {}

    def add(self, text: str) -> int:
        number = self.numbers.get(text)
        if number is None:
            number = self.numbers[text] = self.texts.add(text)
        return number


class QuestionsBuilder:
    """Collects questions; `build` gives the table. A second question of the same id is left out and counted."""

    def __init__(self, groups: Sequence[str] = ()):
        self.groups = tuple(groups)
        self.ids, self.questions, self.videos, self.answers = _TextsBuilder(), _Pool(), _Pool(), _Pool()
        self.option_texts = _Pool()
        self.columns = {name: array.array("i") for name in ("question", "video", "answer", "label")}
        self.options, self.spans = array.array("i"), array.array("d")
        self.group_codes = {name: array.array("i") for name in self.groups}
        self.group_values: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in self.groups}
        self.count = self.num_options = 0
        self.seen: set[bytes] = set()
        self.skipped: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return self.count

    def skip(self, question_id: str, reason: str) -> None:
        """Leaves one out, with the reason."""
        self.skipped.append((question_id, reason))

    def add(
        self,
        question_id: str,
        video_id: str,
        question: str,
        answer: str = "",
        *,
        options: Sequence[str] = (),
        label: int = NO_LABEL,
        span: tuple[float, float] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """One question. ValueError where it has another number of options than the first one."""
        key = question_id.encode("utf-8", "surrogatepass")
        if key in self.seen:
            self.skip(question_id, "the id comes a second time")
            return
        self.seen.add(key)
        if not self.count:
            self.num_options = len(options)
        if len(options) != self.num_options:
            raise ValueError(f"question {question_id}: {len(options)} options, the first one has {self.num_options}")
        self.count += 1
        self.ids.add(question_id)
        self.columns["question"].append(self.questions.add(question))
        self.columns["video"].append(self.videos.add(video_id))
        self.columns["answer"].append(self.answers.add(answer))
        self.columns["label"].append(label)
        self.options.extend(self.option_texts.add(text) for text in options)
        self.spans.extend((np.nan, np.nan) if span is None else span)
        for name in self.groups:
            values = self.group_values[name]
            key = tuple((groups or {}).get(name, ()))
            self.group_codes[name].append(values.setdefault(key, len(values)))

    def build(self) -> Questions:
        """The table, in memory."""
        columns = {name: np.frombuffer(column, np.int32) for name, column in self.columns.items()}
        columns["options"] = np.frombuffer(self.options, np.int32).reshape(self.count, self.num_options)
        spans = np.frombuffer(self.spans, np.float64).reshape(-1, 2)
        columns["span"] = spans if np.isfinite(spans).any() else np.zeros((0, 2))
        for name in self.groups:
            columns[f"group_{name}"] = np.frombuffer(self.group_codes[name], np.int32)
        pools = {"ids": self.ids, "questions": self.questions.texts, "videos": self.videos.texts}
        pools |= {"answers": self.answers.texts, "option_texts": self.option_texts.texts}
        values = {name: tuple(self.group_values[name]) for name in self.groups}
        return Questions(columns, {name: pool.build() for name, pool in pools.items()}, values)


class Questions(Sequence):
    """A table of questions: `questions[i]` is a `Question`. Picklable; one that was opened from a folder, or written to
    one, pickles as its path."""

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        texts: Mapping[str, Texts],
        groups: Mapping[str, tuple[tuple[str, ...], ...]],
        rows: np.ndarray | None = None,
        folder: str = "",
    ):
        self.columns, self.texts, self.groups, self.rows, self.folder = columns, texts, groups, rows, folder

    def __len__(self) -> int:
        return len(self.columns["question"]) if self.rows is None else len(self.rows)

    def __getitem__(self, i) -> Question:
        """The question number i."""
        i = range(len(self))[i]
        row = i if self.rows is None else int(self.rows[i])
        column, text = self.columns, self.texts
        start, end = column["span"][row] if len(column["span"]) else (np.nan, np.nan)
        number = int(column["question"][row])
        return Question(
            text["ids"][row],
            text["videos"][int(column["video"][row])],
            text["questions"][number],
            text["answers"][int(column["answer"][row])],
            tuple(text["option_texts"][int(n)] for n in column["options"][row]),
            int(column["label"][row]),
            None if np.isnan(start) else float(start),
            None if np.isnan(end) else float(end),
            {name: values[int(column[f"group_{name}"][row])] for name, values in self.groups.items()},
            number,
        )

    @property
    def num_options(self) -> int:
        """Options of each question, 0 for open answers."""
        return self.columns["options"].shape[1]

    @property
    def video_ids(self) -> list[str]:
        """The videos that are asked about, in order of first appearance."""
        codes = self.column("video")
        first = np.sort(np.unique(codes, return_index=True)[1])
        return [self.texts["videos"][int(codes[i])] for i in first]

    @property
    def question_texts(self) -> Texts:
        """The different question texts, by `Question.text_index` (of the whole table, whatever was selected)."""
        return self.texts["questions"]

    def column(self, name: str) -> np.ndarray:
        """A column of the selected rows: question, video, answer, label, options, or `group_NAME`, as numbers."""
        return self.columns[name] if self.rows is None else self.columns[name][self.rows]

    def answer_counts(self) -> dict[str, int]:
        """How often each answer is the right one."""
        counts = np.bincount(self.column("answer"), minlength=len(self.texts["answers"]))
        return {self.texts["answers"][i]: int(n) for i, n in enumerate(counts) if n}

    def select(self, rows: np.ndarray) -> Questions:
        """The questions of these rows, sharing the columns."""
        rows = np.asarray(rows, np.int64)
        return Questions(
            self.columns, self.texts, self.groups, rows if self.rows is None else self.rows[rows], self.folder
        )

    def of_videos(self, keep: Iterable[str]) -> Questions:
        """The questions about these videos alone."""
        keep = set(keep)
        good = np.array([name in keep for name in self.texts["videos"]], bool)
        return self.select(np.flatnonzero(good[self.column("video")]))

    def split_videos(self, share: float, seed: int) -> tuple[Questions, Questions]:
        """`(rest, held out)`: a share of the videos, with all their questions, drawn by `seed`; at least one."""
        ids = sorted(self.video_ids)
        order = np.random.default_rng(seed).permutation(len(ids))
        held = {ids[i] for i in order[: max(1, round(share * len(ids)))]}
        return self.of_videos(set(ids) - held), self.of_videos(held)

    def save(self, folder: str | os.PathLike, about: Mapping[str, Any]) -> Questions:
        """Writes all rows to `folder` (replacing what is there) with `about`, JSON; gives the table opened from it."""
        if self.rows is not None:
            raise ValueError("only a whole table is saved")
        folder = Path(folder)
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, column in self.columns.items():
            np.save(unfinished / f"{name}.npy", column)
        for name, texts in self.texts.items():
            np.save(unfinished / f"text_{name}.npy", texts.data)
            np.save(unfinished / f"text_{name}_ends.npy", texts.ends)
        content = {"version": VERSION, "count": len(self), "columns": list(self.columns), "texts": list(self.texts)}
        content |= {"groups": self.groups, "about": about}
        (unfinished / TABLE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
        return Questions.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike, rows: np.ndarray | None = None) -> Questions:
        """Maps a saved table. Raises InputError where there is none, or a damaged one."""
        folder = Path(folder)
        content = read_json(folder / TABLE, "a table of questions")
        try:
            if content["version"] != VERSION:
                raise ValueError(f"of version {content['version']}, this program reads {VERSION}")
            columns = {name: _mapped(folder / f"{name}.npy") for name in content["columns"]}
            texts = {
                name: Texts(_mapped(folder / f"text_{name}.npy"), _mapped(folder / f"text_{name}_ends.npy"))
                for name in content["texts"]
            }
            groups = {name: tuple(tuple(v) for v in values) for name, values in content["groups"].items()}
            if len(columns["question"]) != content["count"]:
                raise ValueError("its columns are of another length")
        except DAMAGE as error:
            raise InputError(
                f"{folder}: damaged table of questions ({error}); delete it to have it made again"
            ) from error
        return cls(columns, texts, groups, rows, str(folder))

    def __reduce__(self):
        """A table on disk travels to other processes as its path."""
        if self.folder:
            return Questions.open, (self.folder, self.rows)
        return Questions, (self.columns, self.texts, self.groups, self.rows)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:  # an empty array cannot be mapped
        return np.load(path)


def cached(
    folder: str | os.PathLike, stamp: Mapping[str, Any], sources: Iterable[str], read: Callable[[], QuestionReading]
) -> QuestionReading:
    """`read() -> QuestionReading`, kept in `folder`: read again only where `stamp` or one of the files `sources` (by
    size and time of change) is another."""
    files = {name: [os.path.getsize(name), os.stat(name).st_mtime_ns] for name in sources}
    about = json.loads(json.dumps({"stamp": dict(stamp), "files": files}))
    path = Path(folder) / TABLE
    if path.is_file():
        found = read_json(path, "a table of questions")
        if found.get("version") == VERSION and {k: found["about"].get(k) for k in about} == about:
            report = found["about"]["report"]
            report = Report(**{k: _tuples(v) if isinstance(v, list) else v for k, v in report.items()})
            return QuestionReading(Questions.open(folder), report)
    reading = read()
    kept = reading.questions.save(folder, {**about, "report": dataclasses.asdict(reading.report)})
    return QuestionReading(kept, reading.report)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def make_report(dataset: str, split: str, builder: QuestionsBuilder, notes: Iterable[str] = ()) -> Report:
    """The report of what a builder holds. Raises InputError where it holds nothing."""
    if not len(builder):
        reasons = "; ".join(dict.fromkeys(reason for _, reason in builder.skipped)) or "the file is empty"
        raise InputError(f"{dataset} {split}: no question can be used ({len(builder.skipped)} skipped: {reasons})")
    return Report(
        dataset,
        split,
        len(builder.videos.texts.ends),
        (),
        tuple(builder.skipped),
        len(builder),
        tuple(notes),
        "questions",
    )


def as_text(value: Any) -> str | None:
    """A text or whole number of an annotation file as text without blanks around it; None for anything else (NaN, null,
    lists) and for an empty one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def known_id(name: str, known: Mapping[str, Any] | set[str]) -> str | None:
    """`name` as `known` has it: exactly, else without the ending `.mp4`; None where it has neither."""
    if name in known:
        return name
    stem = name.removesuffix(".mp4")
    return stem if stem != name and stem in known else None


def require(item: Any, fields: Sequence[str], path: str, where: str) -> None:
    """Raises InputError where `item` is no object with these fields."""
    if not isinstance(item, dict):
        raise InputError(f"{path}: {where} is {type(item).__name__}, not an object with {', '.join(fields)}")
    lost = [name for name in fields if name not in item]
    if lost:
        has = ", ".join(list(item)[:12]) or "nothing"
        raise InputError(f"{path}: {where} has no field {', '.join(lost)}; it has {has}")
