"""Answer questions about a video of your own with a trained MIST, and see which parts of it the answer rests on."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, picture, place, positive, real, whole, word
from jaxvl.core import model
from jaxvl.core.errors import InputError
from jaxvl.core.files import keep, printable
from jaxvl.core.session import Loaded
from jaxvl.data import inputs
from jaxvl.data import text as texts
from jaxvl.data.frame_views import FrameView, load_view
from jaxvl.data.readers.common import find_media
from jaxvl.data.readers.question_answering.vocabulary import read_vocabulary
from jaxvl.methods.mist import data as sources
from jaxvl.methods.mist.data import STREAM
from jaxvl.nn.frozen_clip import load_clip, pack_texts
from jaxvl.search.index import segment_spans
from jaxvl.viz.evidence import Look, attended, evidence_sheet, top_tiles

TOP = 5
BOXES = 3  # of a frame
SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument(
        "--video", required=True, type=place, metavar="FILE", help="a video file, or a folder of frames"
    )
    parser.add_argument(
        "--question", type=word, action="append", default=[], metavar="TEXT", help="may be given several times"
    )
    parser.add_argument("--choices", type=named, default=[], metavar="A,B,C", help="the answers to choose from")
    parser.add_argument("--start", type=real(0), metavar="S", help="only the part from this second on")
    parser.add_argument("--end", type=real(0), metavar="S", help="up to this second")
    parser.add_argument("--fps", type=positive, metavar="RATE", help="rate at which a folder of frames was extracted")
    text = "CLIP of the features; default: that of the config"
    parser.add_argument("--clip-weights", type=place, metavar="DIR", help=text)
    parser.add_argument("--top", type=whole(1), default=TOP, metavar="K", help="answers a question")
    parser.add_argument("--out", type=picture, metavar="PNG", help="the evidence picture; default WORKDIR/evidence.png")
    parser.add_argument("--no-picture", action="store_true", help="no evidence picture")


def named(text: str) -> list[str]:
    """`a,b,c` on the command line."""
    names = [name.strip() for name in word(text).split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: an answer is empty; give them as a,b,c")
    return names


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Computes the features of the video once, answers each question, prints answers and evidence, draws them."""
    if not args.question or not all(q.strip() for q in args.question):
        raise InputError("--question: say what to ask")
    choices = args.choices
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    asker = Asker(loaded, args.clip_weights, say)
    asker.check_choices(choices)
    view = asker.look(args.video, args.fps, args.start, args.end)
    found = [asker.ask(view, question.strip(), choices, args.top) for question in args.question]
    sheet = None
    if not args.no_picture:
        image, out = (
            stacked([draw(answer, view) for answer in found]),
            Path(args.out or loaded.workdir / "evidence.png"),
        )
        kind = PICTURES[out.suffix.lower()]
        sheet = keep(out, lambda unfinished: image.save(unfinished, format=kind), bool(args.out), say)
    rows = [answer["row"] for answer in found]
    if as_json:
        about = {"video": str(args.video), "duration": round(view.view.duration, 3), "questions": rows}
        print(json.dumps({**about, "picture": sheet and str(sheet)}))
        return 0
    for row in rows:
        print(printable(row["question"]))
        for rank, hit in enumerate(row["answers"], 1):
            print(f"  {rank}. {hit['answer']}  {100 * hit['probability']:.1f} %")
        for layer in row["evidence"]:
            spans = (f"{s['start']:.1f}-{s['end']:.1f} s ({100 * s['weight']:.0f} %)" for s in layer["segments"])
            print(f"  layer {layer['layer']} looked at {', '.join(spans)}")
    if sheet:
        print(f"sheet: {sheet}")
    return 0


class Model(model.Model):
    """A trained MIST with the verb `answer`."""

    name = "MIST"

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.say = loaded, say
        self.source = f"{loaded.workdir}, step {loaded.step}"

    @functools.cached_property
    def asker(self) -> Asker:
        """The model with its towers and tokenizer, made at the first question."""
        return Asker(self.loaded, None, self.say)

    def answer(
        self,
        video: Any,
        questions: Sequence[str],
        choices: Sequence[str] = (),
        *,
        top: int = TOP,
        fps: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """Answers to questions about one video, whose features are computed once.

        video: a path, or uint8 frames `[T, H, W, 3]` at `fps`. choices: answers to choose among; a model of multiple
        choice needs them. Of each question: `question`, `answers` (the `top` best, with `probability`) and `evidence`
        (of each layer, segments and boxes with seconds and weights). Raises BadMedia.
        """
        names, asked = list(choices), model.listed(questions, "questions")
        if not all(isinstance(q, str) and q.strip() for q in asked):
            raise InputError("questions: one is empty, or no text")
        self.asker.check_choices(names)
        seen = self.asker.look(inputs.video(video, 0, fps), fps, start_s, end_s)
        return [self.asker.ask(seen, question.strip(), names, top)["row"] for question in asked]


class Seen:
    """A video, with what the model reads. view: its frames; fields: of the batch, one row; spans `[K, 2]`: seconds of
    the segments."""

    def __init__(self, view: FrameView, fields: Mapping[str, np.ndarray], spans: np.ndarray):
        self.view, self.fields, self.spans = view, fields, spans


class Asker:
    """A loaded model with what turns videos and questions into its batches."""

    def __init__(self, loaded: Loaded, clip_weights: str | None, say):
        self.loaded, self.config = loaded, loaded.config
        c, m = self.config, self.config.model
        root = sources.find_root(c, loaded.workdir)
        self.answers = () if m.num_options else read_vocabulary(loaded.workdir / "answers.json")
        tokenizer = sources.build_tokenizer(c, loaded.workdir, None, self.answers)
        self.words = sources.Words(tokenizer, c.data.question_words, c.data.answer_words)
        self.say, self.clip = say, None
        if m.input == "features" or m.query == "cached":
            weights = clip_weights or sources.clip_weights(c, root)
            field = "--clip-weights" if clip_weights else "config.data.clip_weights (or --clip-weights)"
            self.clip = load_clip(weights, m.clip, field)
            sources.check_clip(loaded.workdir, self.clip, weights)
        self.scale = sources.Scale.load(loaded.workdir / sources.SCALE) if c.data.standardize else None
        size = self.clip.config.image_size if m.input == "features" else sources.frame_tower_size(c)
        self.settings = sources.view_settings(c, size)

    def look(self, video: str, fps: float | None, start_s: float | None, end_s: float | None) -> Seen:
        """Decodes a video and computes its features; raises BadMedia."""
        view = load_view(video, **self.settings, fps=fps, start_s=start_s, end_s=end_s)
        spans = spans_of(view, self.config.model.num_segments, start_s, end_s)
        if self.config.model.input == "frames":
            return Seen(view, {"pixels": view.whole, "tiles": view.tiled}, spans)
        stored, carried = self.config.data.extract.dtype, self.config.data.feature_dtype  # as training saw them
        arrays = dict(zip(("frames", "patches"), self.clip.views(view.whole, view.tiled), strict=True))
        arrays = {name: value.astype(stored) for name, value in arrays.items()}
        if self.scale is not None:
            arrays = {name: self.scale(name, value) for name, value in arrays.items()}
        return Seen(view, {name: value.astype(carried) for name, value in arrays.items()}, spans)

    def check_choices(self, choices: Sequence[str]) -> None:
        """Raises InputError where there must be some, or one is no answer that the model can give."""
        if self.config.model.num_options and not choices:
            raise InputError("--choices: this model chooses among answers; give them, as a,b,c")
        if not all(isinstance(c, str) and c.strip() for c in choices):
            raise InputError("--choices: an answer is empty, or no text")
        unknown = [c for c in choices if self.answers and c not in self.answers]
        if unknown:
            raise InputError(f"--choices: {unknown[0]!r} is not among the {len(self.answers)} answers of this model")

    def ask(self, seen: Seen, question: str, choices: Sequence[str], top: int) -> dict[str, Any]:
        """`row` for JSON, and the `looks` of the layers for the picture."""
        if unknown := texts.unknown_words(self.words.tokenizer, [question, *choices]):
            self.say(f"words the model has never seen, read as unknown: {', '.join(unknown)}")
        row = {**seen.fields, "question": self.words.question(question), "label": np.int32(-1), "example": np.int32(0)}
        if self.config.model.query == "clip":
            row["question_clip"] = sources.clip_ids(question)
        else:
            ids, cut = pack_texts([question], self.clip.config.context_length, self.clip.tokenizer)
            if cut:
                self.say(f"the question is longer than CLIP takes and is cut: {question}")
            row["question_vec"] = self.clip.texts(ids)[0]
            if self.scale is not None:
                row["question_vec"] = self.scale("question_vec", row["question_vec"])
        if "segment" in self.loaded.method.batch_spec[STREAM]:
            raise InputError(f"--workdir {self.loaded.workdir}: was trained with the evidence given and needs it")
        names = list(choices) or list(self.answers)
        if count := self.config.model.num_options:
            logits, out = [], {}
            for i in range(0, len(names), count):  # a choice's score does not depend on the others
                part = [names[k % len(names)] for k in range(i, i + count)]
                options = [self.words.answer(question + sources.SEPARATOR + choice) for choice in part]
                out = self.predict({**row, "options": np.stack(options)})
                logits += out["logits"].tolist()
            logits = np.array(logits[: len(names)])
        else:
            out = self.predict(row)
            logits = out["logits"][[self.answers.index(name) for name in names]]
        share = np.exp(logits - logits.max())
        share /= share.sum()
        best = np.argsort(-share, kind="stable")[:top]
        looks = looks_of(out)
        spans = seen.spans
        answers = [{"answer": names[i], "probability": round(float(share[i]), 6)} for i in best]
        evidence = [evidence_row(number, look, spans, seen.view) for number, look in enumerate(looks, 1)]
        return {
            "row": {"question": question, "answers": answers, "evidence": evidence},
            "looks": looks,
            "spans": spans,
        }

    def predict(self, row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One row through the model, copied to as many as the mesh needs."""
        rows = self.loaded.mesh.shape["data"] * self.loaded.mesh.shape["fsdp"]
        batch = {name: np.stack([value] * rows) for name, value in row.items()}
        out = self.loaded.predict(self.loaded.variables, {STREAM: batch})
        return {name: np.asarray(value)[0] for name, value in out.items()}


def looks_of(out: Mapping[str, np.ndarray]) -> list[Look]:
    """What each layer looked at, from the outputs for one example."""
    numbers = sorted(int(name.rsplit("_", 1)[1]) for name in out if name.startswith("segment_weights_"))
    return [attended(out[f"segment_weights_{i}"], out.get(f"region_weights_{i}")) for i in numbers]


def spans_of(view: FrameView, segments: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """`[K, 2]` seconds that the segments stand for, of the whole video or of a part."""
    times = np.asarray(view.times)
    changes = np.flatnonzero(np.diff(times) > 0)
    last = changes[-1] + 1 if len(changes) else 0  # repeats of the last frame stand for nothing
    spans = segment_spans(times, np.arange(len(times)) <= last, view.duration, segments)
    return spans.clip(start_s or 0.0, view.duration if end_s is None else min(end_s, view.duration))


def evidence_row(number: int, look: Look, spans: np.ndarray, view: FrameView) -> dict[str, Any]:
    """JSON of one layer: segments and their weights, and the most attended tiles of the frames taken, with times."""
    order = np.argsort(-look.segments, kind="stable")
    segments = [
        {"segment": int(s), "start": round(float(spans[s, 0]), 3), "end": round(float(spans[s, 1]), 3),
         "weight": round(float(look.segments[s]), 6)}
        for s in order[: max(2, len(look.taken))]
    ]  # fmt: skip
    regions = []
    if look.regions is not None:
        per = len(view.times) // len(spans)
        for place, segment in enumerate(look.taken):
            for k in range(per):
                for n, box in top_tiles(look.regions[place, k], BOXES):
                    regions.append({
                        "time": round(float(view.times[segment * per + k]), 3),
                        "box": [round(v, 4) for v in box],
                        "weight": round(float(look.regions[place, k, n]), 6),
                    })  # fmt: skip
    return {"layer": number, "segments": segments, "regions": regions}


def draw(answer: Mapping[str, Any], seen: Seen, truth: Sequence[tuple[float, float]] = ()) -> Image.Image:
    """The evidence picture of one answered question."""
    row = answer["row"]
    best = row["answers"][0]
    said = f"{best['answer']} ({100 * best['probability']:.0f} %)"
    return evidence_sheet(row["question"], said, answer["looks"], answer["spans"], seen.view.tiled, truth, boxes=BOXES)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One below the other."""
    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for part in pictures:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: a few questions of the test split, what the model answered and where it looked."""
    c = loaded.config
    examples = data.splits[c.eval.split][STREAM]
    if c.model.selector == "all" or c.model.visual in ("mean", "none"):
        return
    picked = np.linspace(0, len(examples.source) - 1, min(SHOWN, len(examples.source)), dtype=int)
    records = [examples.source[int(i)] for i in picked]
    folder = sources.find_root(c, loaded.workdir) / c.data.videos
    media = find_media(folder, {r.video_id.removesuffix(".mp4") for r in records}) if folder.is_dir() else {}
    rng = np.random.default_rng(0)
    for record in records:
        row = examples.make(record, rng)
        rows = loaded.mesh.shape["data"] * loaded.mesh.shape["fsdp"]
        batch = {name: np.stack([value] * rows) for name, value in row.items() if not name.startswith("_")}
        out = {n: np.asarray(v)[0] for n, v in loaded.predict(loaded.variables, {STREAM: batch}).items()}
        names = record.options or tuple(read_vocabulary(loaded.workdir / "answers.json"))
        said = names[int(out["logits"][: len(names)].argmax())]
        looks = looks_of(out)
        frames, spans = None, np.stack([np.arange(c.model.num_segments), np.arange(c.model.num_segments) + 1], 1) * 1.0
        path = media.get(record.video_id.removesuffix(".mp4"))
        if path is not None:
            part = {"start_s": record.start_s, "end_s": record.end_s}
            view = load_view(path, num_frames=c.data.frames, size=64, grid=2, **part)
            frames, spans = view.tiled, spans_of(view, c.model.num_segments, record.start_s, record.end_s)
        truth = [tuple(spans[s]) for s in row.get("_segments", ())]
        verdict = "right" if said == record.answer else f"wrong, the answer is {record.answer!r}"
        yield (
            f"Evidence: {record.question}",
            evidence_sheet(record.question, f"{said} ({verdict})", looks, spans, frames, truth, boxes=BOXES),
            f"Question {record.question_id} of split {c.eval.split!r}; questions are spread evenly over the split, not "
            f"chosen. Each layer's attention by segment, and the {BOXES} most attended tiles of each frame taken.",
        )


def results_tables(metrics: dict[str, float]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """Accuracy in total and by type, and where the evidence is known how often it was looked at."""
    looked = {k: v for k, v in metrics.items() if k.startswith(("segment_recall_", "segment_weight_"))}
    total = int(metrics["questions"])
    rest = {k: v for k, v in metrics.items() if k not in looked and k != "questions"}
    plain = [[name, round(value, 2)] for name, value in rest.items() if "/" not in name]
    tables = [(f"Answers to {total:,} questions", ["", "percent"], plain, "")]
    kinds: dict[str, list[list[Any]]] = {}
    for name, value in rest.items():
        if "/" in name:
            group, kind = name.split("/", 1)
            kinds.setdefault(group, []).append([kind, round(value, 2)])
    tables += [(f"Accuracy by {group}", ["type", "percent"], rows, "") for group, rows in kinds.items()]
    if looked:
        rows = [[name.replace("_", " "), round(value, 2)] for name, value in looked.items()]
        note = "recall: some slot gave more than half to the segment with the evidence; weight: what a slot gave it"
        tables.append(("Was the evidence looked at?", ["", "percent"], rows, note))
    return tables
