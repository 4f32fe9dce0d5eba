"""Questions and features to MIST's batches, and what `jaxvl prepare --extract` computes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.arrays import read_npz, write_npz
from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.core.files import read_json
from jaxvl.core.method import Data, Examples
from jaxvl.data import text
from jaxvl.data.extract import Extraction, Item
from jaxvl.data.features import Features, FeatureStore, check_features, known_features, open_features
from jaxvl.data.frame_views import FrameView, load_view, preprocessing
from jaxvl.data.readers.common import find_media, first_few, write_ids
from jaxvl.data.readers.question_answering import agqa, envqa, nextqa, star
from jaxvl.data.readers.question_answering import vocabulary as vocab
from jaxvl.data.readers.question_answering.questions import Question, QuestionReading, Questions, cached
from jaxvl.data.wordpiece import WordPieceTokenizer

STREAM = "qa"
MADE = "features.json"  # in the workdir: how the features that it was trained on were made
SPLITS = ("train", "val", "test")
READERS = {
    "agqa": (agqa.read_agqa, lambda root, split: [agqa.find_agqa(root, split)]),
    "nextqa": (nextqa.read_nextqa, lambda root, split: [os.path.join(root, f"{split}.csv")]),
    "star": (star.read_star, lambda root, split: [os.path.join(root, f"STAR_{split}.json")]),
    "envqa": (envqa.read_envqa, lambda root, split: [os.path.join(root, f"{split}_full_question.json")]),
}
"""Reader -> `(read(root, split), its files)`."""
READ = 1  # raised whenever a reader gives other tables of the same files
CLIP_WORDS = 77
SEPARATOR = " [SEP] "
SCALE = "feature_scale.npz"
SCALE_SAMPLE = 512  # questions over which features are standardised
CUT_SAMPLE = 20_000  # texts that are looked at for the share of cut ones


@dataclasses.dataclass(frozen=True)
class Words:
    """Texts to ids. questions Q, answers A: positions; options: of multiple choice."""

    tokenizer: Any
    questions: int
    answers: int

    def question(self, words: str) -> np.ndarray:
        """int32 `[Q]`, `[CLS] ... [SEP]`, cut to fit."""
        return text.pack(self.tokenizer, words, self.questions)

    def answer(self, words: str) -> np.ndarray:
        """int32 `[A]`."""
        return text.pack(self.tokenizer, words, self.answers)

    def options(self, question: Question) -> np.ndarray:
        """int32 `[O, A]`: question, separator and option, as MIST reads them; what is too long loses its end."""
        return np.stack([self.answer(question.question + SEPARATOR + option) for option in question.options])

    def cut(self, words: str, length: int) -> bool:
        """Whether the text loses its end."""
        return text.is_cut(self.tokenizer, words, length)


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation over training, by name: `frames`, `patches` `[F]`, `question_vec` `[E]`."""

    mean: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray]

    def __call__(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values `[..., F]` with mean 0 and variance 1 over training, float32; what never varies becomes 0."""
        std = self.std[name]
        shifted = np.asarray(values, np.float32) - self.mean[name]
        return np.where(std > 1e-6, shifted / np.maximum(std, 1e-6), 0.0).astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes a `.npz`."""
        parts = (("mean", self.mean), ("std", self.std))
        write_npz(path, {f"{kind}_{name}": value for kind, part in parts for name, value in part.items()})

    @classmethod
    def load(cls, path: Path) -> Scale:
        """Reads what `save` wrote. Raises InputError where there is none."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; it is part of the workdir of a run with config.data.standardize")
        kept = read_npz(path, "train in this workdir again, which writes it where it is gone")
        parts = {kind: {n[len(kind) + 1 :]: kept[n] for n in kept if n.startswith(kind)} for kind in ("mean", "std")}
        return cls(parts["mean"], parts["std"])


def measure_scale(make: MakeQuestion, train: Questions) -> Scale:
    """Over at most `SCALE_SAMPLE` training questions, spread evenly."""
    picked = np.unique(np.linspace(0, len(train) - 1, min(len(train), SCALE_SAMPLE)).astype(int))
    found: dict[str, list[np.ndarray]] = {"frames": [], "patches": [], "question_vec": []}
    for record in (train[int(i)] for i in picked):
        for name, value in make.seen(record).items():
            found[name].append(np.asarray(value, np.float64).reshape(-1, value.shape[-1]))
        if make.vectors is not None:
            found["question_vec"].append(np.asarray(make.vectors[record.text_index], np.float64)[None])
    found = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    each = lambda f: {name: f(value, axis=0).astype(np.float32) for name, value in found.items()}  # noqa: E731
    return Scale(each(np.mean), each(np.std))


@dataclasses.dataclass(frozen=True)
class MakeQuestion:
    """`Question -> one row of stream 'qa'` (`recipe`).

    store: of features; by_question: they are kept by question, not by video. media: video -> its file, with frames in
    place of features; view: the arguments of `load_view` then. vectors: `[texts, E]` of the questions, by text number;
    clip_ids: a function of the text, where the model computes them. answers: number of each answer that can be given,
    empty for multiple choice. evidence: question -> the segments where its answer is seen, where that is known.
    oracle: also as a field of the batch. scale: of `config.data.standardize`. shown: the texts of all answers, for
    evaluators that need them.
    """

    words: Words
    store: FeatureStore | None
    by_question: bool
    dtype: str
    vectors: Any = None
    clip_ids: Callable[[str], np.ndarray] | None = None
    answers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    media: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    view: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evidence: Mapping[str, list[int]] = dataclasses.field(default_factory=dict)
    oracle: bool = False
    shown: tuple[str, ...] = ()
    scale: Scale | None = None

    def __call__(self, record: Question, rng: np.random.Generator) -> dict[str, Any]:
        """Reads the features (or decodes the video) and packs the texts; raises BadMedia."""
        del rng
        row = {name: self.scaled(name, value) for name, value in self.seen(record).items()}
        row["question"] = self.words.question(record.question)
        if self.clip_ids is not None:
            row["question_clip"] = self.clip_ids(record.question)
        if self.vectors is not None:
            vector = np.array(self.vectors[record.text_index], np.float32)
            row["question_vec"] = vector if self.scale is None else self.scale("question_vec", vector)
        label = record.label if record.options else self.answers.get(record.answer, vocab.OUTSIDE)
        if record.options:
            row["options"] = self.words.options(record)
        row |= {"label": np.int32(label), "example": np.int32(zlib.crc32(record.question_id.encode()) & 0x7FFFFFFF)}
        row |= {"_question_id": record.question_id, "_video_id": record.video_id, "_question": record.question}
        row |= {"_answer": record.answer, "_options": record.options, "_groups": dict(record.groups), "_label": label}
        if self.shown:
            row["_vocabulary"] = self.shown
        if self.evidence:
            segments = self.evidence[record.question_id]
            row |= {"_segment": segments[0], "_segments": tuple(segments)}
            if self.oracle:
                row["segment"] = np.int32(segments[0])
        return row

    def scaled(self, name: str, value: np.ndarray) -> np.ndarray:
        """A field of what is seen as the batch carries it."""
        return value if self.scale is None else self.scale(name, value).astype(value.dtype)

    def seen(self, record: Question) -> dict[str, np.ndarray]:
        """The fields of what is seen."""
        if self.store is None:
            part = {"start_s": record.start_s, "end_s": record.end_s} if self.by_question else {}
            view = load_view(self.media[record.video_id], **self.view, **part)
            return {"pixels": view.whole, "tiles": view.tiled}
        name = record.question_id if self.by_question else record.video_id
        key = name if name in self.store else name.removesuffix(".mp4")
        arrays = self.store.by_id(key).arrays
        return {name: np.asarray(arrays[name], self.dtype) for name in ("frames", "patches")}


def question_id(record: Question) -> str:
    """What logs call a question."""
    return record.question_id


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d = config.data
    lacking = [] if d.root or d.world else [f"data.root: the folder of your annotations in the layout of {d.reader!r}"]
    if config.model.input == "features" and d.root and not (features := Path(d.root) / d.features).exists():
        lacking.append(f"data.features: {features} is not there; `jaxvl prepare --extract {features}` computes it")
    elif config.model.input == "features" and not d.root:
        lacking.append("data.features: what `jaxvl prepare --extract` wrote for them, or the released HDF5 file")
    return lacking


def build_data(config: ConfigDict, workdir: Path, say) -> Data:
    """Reads the questions that `config.data` names (rendering the question world first where it asks for one), with
    their features."""
    d, m = config.data, config.model
    workdir = Path(workdir)
    root = find_root(config, workdir)
    if d.world:
        render_world(config, root, say)
    readings, notes = read_all(config, root, workdir)
    tables = {split: reading.questions for split, reading in readings.items()}
    reports = [reading.report.line() for reading in readings.values()]
    store, media = None, {}
    if m.input == "features":
        store, tables, lost = with_features(config, root, tables)
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / MADE).write_text(json.dumps({"path": store.path, **store.provenance}, indent=1) + "\n")
        reports += lost
    else:
        media = videos_of(config, root, {name for table in tables.values() for name in table.video_ids}, say)
        tables = {split: table.of_videos(media) for split, table in tables.items()}
    if d.reader == "agqa":  # no validation split is published
        tables["train"], tables["val"] = tables["train"].split_videos(d.val_share, seed=0)
        reports.append(
            f"{agqa.DATASET} val: {len(tables['val']):,} questions, {d.val_share:.0%} of the training videos"
        )
    tables = {split: tables[split] for split in SPLITS if split in tables and len(tables[split])}
    if "train" not in tables:
        raise InputError(f"{root}: no training question is left; {'; '.join(reports)}")
    answers = answer_texts(config, root, workdir, tables["train"])
    words = Words(build_tokenizer(config, workdir, tables["train"], answers), d.question_words, d.answer_words)
    reports += text_notes(words, tables["train"], answers)
    if not m.num_options:
        reports += [f"{s}: {note}" for s, table in tables.items() if (note := vocab.outside_note(table, answers))]
    vectors = question_vectors(config, root, workdir, tables, say) if m.query == "cached" else {}
    evidence = world_evidence(root, m.num_segments, d.reader) if d.world else {}
    if m.selector == "oracle" and not evidence:
        raise InputError(
            "config.model.selector: 'oracle' needs to know the evidence, which only a world with questions does"
        )
    shared = MakeQuestion(
        words=words,
        store=store,
        by_question=d.reader == "star",
        dtype=d.feature_dtype,
        clip_ids=clip_ids if m.query == "clip" else None,
        answers={answer: i for i, answer in enumerate(answers)},
        media=media,
        view={} if store else view_settings(config, frame_tower_size(config)),
        evidence=evidence,
        oracle=m.selector == "oracle",
        shown=answers if d.reader == "envqa" else (),
    )
    scale = None
    if d.standardize:
        if store is None:
            raise InputError("config.data.standardize: is for features, not for config.model.input = 'frames'")
        if not (workdir / SCALE).is_file():
            measure_scale(dataclasses.replace(shared, vectors=vectors.get("train")), tables["train"]).save(
                workdir / SCALE
            )
        scale = Scale.load(workdir / SCALE)
    makes = {split: dataclasses.replace(shared, vectors=vectors.get(split), scale=scale) for split in tables}
    streams = {
        split: Examples(table, makes[split], question_id, d.batch_size if split == "train" else d.eval_batch_size)
        for split, table in tables.items()
    }
    for split, table in tables.items():
        if line := write_ids(workdir, split, table.video_ids):
            say(line)
    constants = {}
    if not m.num_options and m.answer_encoder == "text":
        constants["answers/ids"] = np.stack([words.answer(answer) for answer in answers])
    splits = {
        split: {STREAM: dataclasses.replace(examples, batch_size=d.eval_batch_size)}
        for split, examples in streams.items()
    }
    return Data({STREAM: streams["train"]}, splits, [*dict.fromkeys(reports), *notes], constants)


def find_root(config: ConfigDict, workdir: Path | None) -> Path:
    """The folder of the annotations."""
    if config.data.root:
        return Path(config.data.root)
    if workdir is None:
        raise InputError("config.data.root: is empty; name the folder of the data set (a world is rendered there)")
    return Path(workdir) / "data"


def read_all(
    config: ConfigDict, root: Path, workdir: Path | None, splits: Sequence[str] = ()
) -> tuple[dict[str, QuestionReading], list[str]]:
    """Every split (or `splits` alone) by the reader that `config.data.reader` names, as tables kept in `WORKDIR/cache`.

    Those asked for must be there, by default training's and those that the config evaluates on. Another one that cannot
    be read is left out, and the last list says why.
    """
    d = config.data
    if d.reader not in READERS:
        raise InputError(f"config.data.reader: {d.reader!r} is none of {', '.join(READERS)}")
    read, files = READERS[d.reader]
    known = agqa.SPLITS if d.reader == "agqa" else SPLITS
    for split in splits:
        if split not in known:
            raise InputError(f"--split {split}: the data has {', '.join(known)}")
    evaluated = [config.train.eval_split] if config.train.eval_every else []
    needed = set(splits) or {"train", config.eval.split, *evaluated}
    readings: dict[str, QuestionReading] = {}
    notes: list[str] = []
    for split in splits or known:
        try:
            if workdir is None:
                readings[split] = read(root, split)
                continue
            sources = files(root, split)
            if not all(os.path.isfile(source) for source in sources):
                read(root, split)  # says what is missing
            stamp = {"reader": d.reader, "split": split, "version": READ}
            folder = Path(workdir) / "cache" / "questions" / split
            readings[split] = cached(folder, stamp, sources, lambda split=split: read(root, split))
        except InputError as error:
            if split in needed:
                raise
            notes.append(f"split {split} is left out: {error}")
    return readings, notes


def feature_shapes(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """The arrays of one example that the model takes."""
    t, m = config.data.frames, config.model
    return {"frames": (t, m.feature_dim), "patches": (t, m.patches, m.feature_dim)}


def check_clip(workdir: Path, clip: Any, weights: str) -> None:
    """Raises InputError where the features that the run was trained on came from another CLIP."""
    path = Path(workdir) / MADE
    if path.is_file():
        made = read_json(path, dict, "train in this workdir again, which writes it")
        if made.get("weights", clip.weights) != clip.weights:
            raise InputError(
                f"{weights}: is another CLIP ({clip.weights}) than the features were made with ({made['weights']}); "
                "name theirs with --clip-weights"
            )


def with_features(
    config: ConfigDict, root: Path, tables: Mapping[str, Questions]
) -> tuple[FeatureStore, dict[str, Questions], list[str]]:
    """`(features, the questions that have some, a line a split that lost questions)`."""
    d = config.data
    rows = root / "qid.json"
    store = open_features(root / d.features, rows if d.reader == "star" and rows.is_file() else None)
    expected = view_provenance(config) if store.provenance else {}
    check_features(store, feature_shapes(config), expected)
    kept, lines = {}, []
    if store.refused:
        lines.append(f"{store.path}: {len(store.refused):,} all-zero videos refused ({first_few(store.refused)})")
    if not store.provenance:
        lines.append(f"{store.path}: does not say how its features were made")
    for split, table in tables.items():
        if d.reader == "star":
            found = [i for i, q in enumerate(table) if q.question_id in store]
            kept[split] = table if len(found) == len(table) else table.select(np.array(found, np.int64))
        else:
            found = known_features(store, table.video_ids)
            kept[split] = table if len(found) == len(table.video_ids) else table.of_videos(found)
        lost = len(table) - len(kept[split])
        if lost and d.strict:
            raise InputError(f"{store.path}: {lost:,} of {len(table):,} {split} questions have no features here")
        if lost:
            gone = [name for name in table.video_ids if name not in found] if d.reader != "star" else []
            which = f" ({len(gone):,} videos: {first_few(gone)})" if gone else ""
            lines.append(f"{split}: {lost:,} of {len(table):,} questions left out, without features{which}")
    return store, kept, lines


def view_settings(config: ConfigDict, size: int) -> dict[str, Any]:
    """Arguments of `load_view`, and of `preprocessing`."""
    grid = config.data.extract.grid
    if grid * grid != config.model.patches:
        raise InputError(
            f"config.data.extract.grid: {grid} x {grid} tiles are not config.model.patches = {config.model.patches}"
        )
    return {"num_frames": config.data.frames, "size": size, "grid": grid}


def view_provenance(config: ConfigDict) -> dict[str, Any]:
    """What features must have been made with, as far as the config alone tells."""
    return {"sampling": preprocessing(config.data.frames, 1, 1)["sampling"], "grid": config.data.extract.grid}


def frame_tower_size(config: ConfigDict) -> int:
    """Pixels of a side of what the tower inside the step sees."""
    from jaxvl.nn.clip import CLIP_PRESETS

    return CLIP_PRESETS[config.model.clip].image_size


def videos_of(config: ConfigDict, root: Path, names: set[str], say) -> dict[str, Any]:
    """Video -> its file, or its frames; of those that exist, with a line about the others."""
    d = config.data
    folder = root / d.videos
    if d.reader == "envqa":
        media, lost = envqa.find_frames(root, folder, sorted(names))
        if lost:
            say(f"{folder}: {lost:,} listed frames do not exist and are left out")
    else:
        stems = {name: name.removesuffix(".mp4") for name in names}
        mapped = nextqa.read_video_map(root) if d.reader == "nextqa" else {}
        wanted = {name: Path(mapped.get(name, stem)).name for name, stem in stems.items()}
        found = find_media(folder, set(wanted.values()) | names)
        media = {
            name: found.get(name) or found[stem] for name, stem in wanted.items() if name in found or stem in found
        }
    gone = sorted(names - set(media))
    if gone and d.strict:
        raise InputError(f"{folder}: {len(gone):,} of {len(names):,} videos are missing ({first_few(gone)})")
    if gone:
        say(f"{folder}: {len(gone):,} of {len(names):,} videos are missing ({first_few(gone)})")
    if not media:
        raise InputError(
            f"{folder}: holds none of the {len(names):,} videos ({first_few(sorted(names))}); is it the right folder?"
        )
    return media


def media_files(config: ConfigDict, splits: Sequence[str], say) -> tuple[Path, list[str]]:
    """The folder of the videos and every video of `splits` (all, if empty), for `jaxvl prepare --shrink`.

    Raises InputError where the data set has frames in place of videos.
    """
    d = config.data
    if d.reader == "envqa":
        raise InputError("config.data.reader: 'envqa' has frames, which --shrink does not take")
    root = find_root(config, None)
    if d.world:
        render_world(config, root, say)
    readings, notes = read_all(config, root, None, splits)
    for line in [*(reading.report.line() for reading in readings.values()), *notes]:
        say(line)
    names = {name for reading in readings.values() for name in reading.questions.video_ids}
    return root / d.videos, [str(path) for _, path in sorted(videos_of(config, root, names, say).items())]


def extraction(config: ConfigDict, splits: Sequence[str], say) -> Extraction:
    """What `jaxvl prepare --extract` computes: frame and tile vectors of each video (STAR: of each question's part)."""
    from jaxvl.nn.frozen_clip import load_clip

    d = config.data
    root = find_root(config, None)
    if d.world:
        render_world(config, root, say)
    readings, notes = read_all(config, root, None, splits)
    for line in [*(reading.report.line() for reading in readings.values()), *notes]:
        say(line)
    tables = [reading.questions for reading in readings.values()]
    media = videos_of(config, root, {name for table in tables for name in table.video_ids}, say)
    clip = load_clip(clip_weights(config, root), config.model.clip, "config.data.clip_weights")
    settings = view_settings(config, clip.config.image_size)
    if clip.config.embed_dim != config.model.feature_dim:
        raise InputError(
            f"config.model.feature_dim: {config.model.feature_dim}, but this CLIP gives {clip.config.embed_dim}"
        )
    if d.extract.dtype not in ("float16", "float32"):
        raise InputError(f"config.data.extract.dtype: {d.extract.dtype!r} is neither float16 nor float32")
    if d.reader == "star":
        items = [
            Item(q.question_id, media[q.video_id], q.start_s, q.end_s)
            for table in tables for q in table if q.video_id in media
        ]  # fmt: skip
    else:
        items = [Item(name, media[name]) for name in sorted(media)]

    def encode(view: FrameView) -> Features:
        frames, patches = clip.views(view.whole, view.tiled)
        arrays = {"frames": frames.astype(d.extract.dtype), "patches": patches.astype(d.extract.dtype)}
        return Features(arrays, view.times, view.duration, view.timed)

    return Extraction(
        items=items,
        decode=lambda item: load_view(item.media, **settings, start_s=item.start_s, end_s=item.end_s),
        encode=encode,
        provenance={
            "encoder": "CLIP image tower, projected, not normalised",
            "weights": clip.weights,
            "grid": settings["grid"],
            "dtype": d.extract.dtype,
            **preprocessing(**settings),
        },
        frames=d.frames,
    )


def clip_weights(config: ConfigDict, root: Path) -> str:
    """`config.data.clip_weights`, below root unless absolute; '' and 'random' as they are."""
    name = config.data.clip_weights
    return name if name in ("", "random") else str(root / name)


def answer_texts(config: ConfigDict, root: Path, workdir: Path, train: Questions) -> tuple[str, ...]:
    """The answers that can be given, in order; kept in `WORKDIR/answers.json`. Empty for multiple choice."""
    m, d = config.model, config.data
    if m.num_options:
        if train.num_options != m.num_options:
            raise InputError(
                f"config.model.num_options: {m.num_options}, but these questions have {train.num_options} options"
            )
        return ()
    if train.num_options:
        raise InputError(
            f"config.model.num_options: 0, but these questions have {train.num_options} options each; set it"
        )
    path = workdir / "answers.json"
    if path.is_file():
        answers = vocab.read_vocabulary(path)
    elif d.answers:
        answers = vocab.read_vocabulary(root / d.answers)
    else:
        answers = vocab.build_vocabulary(train, m.num_answers)
    if len(answers) != m.num_answers:
        source = path if path.is_file() else root / d.answers if d.answers else "the training questions"
        raise InputError(
            f"config.model.num_answers: {m.num_answers}, but {source} give {len(answers)} answers; set it to that"
        )
    if not path.is_file():
        vocab.write_vocabulary(path, answers)
    return answers


def build_tokenizer(config: ConfigDict, workdir: Path, train: Questions | None, answers: Sequence[str]):
    """The tokenizer of `config.data.tokenizer`; a vocabulary of words is built once and kept in the workdir."""
    d = config.data
    if d.tokenizer == "bert":
        return WordPieceTokenizer(d.bert_vocabulary or None)
    if d.tokenizer != "words":
        raise InputError(f"config.data.tokenizer: {d.tokenizer!r} is none of bert, words")
    path = workdir / "vocabulary.json"
    if path.is_file():
        return text.WordTokenizer.load(path)
    if train is None:
        raise InputError(f"{path}: no such file; it is part of the workdir of a run")
    size = config.model.text.vocab_size
    if not size:
        raise InputError("config.model.text.vocab_size: is 0; set it for a vocabulary of words")
    said = [*train.question_texts, *answers, *(train.texts["option_texts"] if train.num_options else ())]
    tokenizer = text.WordTokenizer.build(said, size)
    workdir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    return tokenizer


def text_notes(words: Words, train: Questions, answers: Sequence[str]) -> list[str]:
    """The share of texts that lose their end, of at most `CUT_SAMPLE` spread over the training split."""
    picked = np.unique(np.linspace(0, len(train) - 1, min(len(train), CUT_SAMPLE)).astype(int))
    notes = []
    texts = list(dict.fromkeys(train[int(i)].question for i in picked))
    if cut := sum(words.cut(q, words.questions) for q in texts):
        notes.append(f"{cut / len(texts):.2%} of the question texts are cut to {words.questions} tokens")
    if train.num_options:
        picked = picked[:: max(1, train.num_options)]
        options = [q.question + SEPARATOR + o for q in (train[int(i)] for i in picked) for o in q.options]
        cut = sum(words.cut(option, words.answers) for option in options)
        notes.append(
            f"{cut / len(options):.2%} of {len(options):,} option texts looked at are cut to {words.answers} tokens"
        )
    elif cut := sum(words.cut(answer, words.answers) for answer in answers):
        raise InputError(
            f"config.data.answer_words: {cut} of the {len(answers)} answers have more than {words.answers} tokens"
        )
    return notes


def clip_ids(words: str) -> np.ndarray:
    """CLIP's ids int32 `[77]`; a longer question is cut before its end token."""
    from jaxvl.nn.frozen_clip import clip_tokenizer

    return text.pack(clip_tokenizer(), words, CLIP_WORDS)


def question_vectors(
    config: ConfigDict, root: Path, workdir: Path, tables: Mapping[str, Questions], say
) -> dict[str, np.ndarray]:
    """Split -> float32 `[texts, E]`, mapped from `WORKDIR/cache/vectors`: computed once for each different text."""
    from jaxvl.nn.frozen_clip import load_clip, pack_texts

    found, clip = {}, None
    for split, table in tables.items():
        texts = table.question_texts
        digest = hashlib.blake2b(texts.data, digest_size=8)
        digest.update(np.asarray(texts.ends))
        name = f"{split if split != 'val' or config.data.reader != 'agqa' else 'train'}.npy"
        path = workdir / "cache" / "vectors" / name
        stamp = {"texts": digest.hexdigest(), "weights": str(clip_weights(config, root))}
        weights = Path(clip_weights(config, root)) / "weights.json"
        if weights.is_file():
            stamp["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        about = path.with_suffix(".json")
        if not _kept(path, about, stamp, len(texts)):
            clip = clip or load_clip(clip_weights(config, root), config.model.clip, "config.data.clip_weights")
            if clip.config.embed_dim != config.model.query_dim:
                raise InputError(
                    f"config.model.query_dim: {config.model.query_dim}, but this CLIP gives {clip.config.embed_dim}"
                )
            ids, cut = pack_texts(texts, min(CLIP_WORDS, clip.config.context_length), clip.tokenizer)
            if cut:
                say(f"{split}: {cut:,} of {len(texts):,} question texts are longer than CLIP takes and are cut")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.save(file, clip.texts(ids))
            os.replace(path.with_suffix(".tmp"), path)
            about.write_text(json.dumps(stamp))
        found[split] = MappedVectors(str(path))
    return found


def _kept(path: Path, about: Path, stamp: Mapping[str, Any], count: int) -> bool:
    """Whether the vectors of these texts are there; damaged ones are computed anew."""
    try:
        return read_json(about, dict, "") == stamp and len(np.load(path, mmap_mode="r")) == count
    except (InputError, *DAMAGE):
        return False


class MappedVectors:
    """Rows of a `.npy` file; travels to other processes as its path."""

    def __init__(self, path: str):
        self.path, self._rows = path, None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_rows": None}

    def __getitem__(self, row: int) -> np.ndarray:
        """One vector."""
        if self._rows is None:
            self._rows = np.load(self.path, mmap_mode="r")
        return self._rows[row]


def render_world(config: ConfigDict, root: Path, say) -> None:
    """Renders the question world into `root` in the layout of the reader, unless it stands there already."""
    from jaxvl.data.synthetic.on_disk import told
    from jaxvl.data.synthetic.questions.layouts import ensure_question_world
    from jaxvl.data.synthetic.questions.world import QuestionWorldConfig

    try:
        world = QuestionWorldConfig(**config.data.world.to_dict())
    except TypeError as error:
        raise InputError(f"config.data.world: {error}") from None
    ensure_question_world(world, root, config.data.reader, progress=told(say, "the question world", "videos"))


def world_evidence(root: Path, segments: int, reader: str) -> dict[str, list[int]]:
    """Question -> the segments of its video (STAR: of its part) in which its evidence is seen."""
    from jaxvl.data.synthetic.on_disk import read_truth
    from jaxvl.data.synthetic.questions.layouts import published_questions
    from jaxvl.data.synthetic.questions.world import evidence_segments

    return {
        name: evidence_segments([[s - start, e - start] for s, e in spans], end - start, segments)
        for name, spans, start, end in published_questions(read_truth(root), reader)
    }
