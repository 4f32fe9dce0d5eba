"""Recognise actions in skeleton sequences of your own with a trained AFE-CNN (reconstruction), and see which joints and
frames it favours."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, place, whole
from jaxvl.core import class_names, model
from jaxvl.core.arrays import read_npz
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import keep, printable
from jaxvl.core.session import Loaded
from jaxvl.data.readers.skeletons.clips import UNKNOWN, SkeletonClip
from jaxvl.data.readers.skeletons.plain import as_bodies, find_sequences, read_clips
from jaxvl.data.skeletons import SKELETONS, normalise
from jaxvl.methods.afe_cnn import data as sources
from jaxvl.methods.afe_cnn.data import STREAM
from jaxvl.methods.afe_cnn.method import pictures_of
from jaxvl.metrics.classification import top_k
from jaxvl.viz import skeleton as drawing
from jaxvl.viz.curves import Series
from jaxvl.viz.plot import plot

TOP = 5
NAMED = 4  # joints and frames of the text output
SHOWN = 4  # sequences in a report
SHEET = 12  # sequences on a contact sheet
PARTS = ("coordinates", "bone directions", "steps", "long steps")
GIF = ".gif"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument(
        "--sequences",
        required=True,
        type=place,
        metavar="FILE",
        help="sequences (.skeleton, .csv, .json, .npy, UTKinect's .txt; .npz, .pkl of NTU RGB+D), or a folder of them",
    )
    parser.add_argument("--top", type=whole(1), default=TOP, metavar="K", help="actions a sequence")
    parser.add_argument(
        "--out",
        type=drawn,
        metavar="GIF",
        help="an animation of the first sequence (.gif), or a sheet of all (.png, .jpg); default WORKDIR/actions.gif",
    )
    parser.add_argument("--no-picture", action="store_true", help="no picture")


def drawn(text: str) -> str:
    """A picture file to write, or a GIF."""
    name = place(text)
    if Path(name).suffix.lower() not in (GIF, *PICTURES) or Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: name a picture file ({', '.join((GIF, *PICTURES))})")
    return name


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Prints the most probable actions of every sequence, and what the gates favour; draws it."""
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    recogniser = Recogniser(loaded)
    if args.top > len(recogniser.classes):
        raise InputError(f"--top {args.top}: needs 1 to {len(recogniser.classes)}, the number of classes")
    clips, skipped = [], []
    for path in find_sequences(args.sequences):
        try:
            clips += recogniser.clips(path, path)
        except BadMedia as bad:
            skipped.append(bad)
            say(f"skipped {bad}")
    if not clips:
        raise InputError(f"--sequences {args.sequences}: none of its {len(skipped)} files can be read: {skipped[0]}")
    seen = recogniser.look(clips)
    rows = [recogniser.row(clip.name, one, args.top) for clip, one in zip(clips, seen, strict=True)]
    picture = None
    if not args.no_picture:
        out = Path(args.out or loaded.workdir / "actions.gif")
        content = recogniser.animation(clips[0], rows[0], seen[0]) if out.suffix.lower() == GIF else None
        sheet = None if content is not None else recogniser.sheet(clips, rows, seen)
        picture = keep(out, lambda unfinished: _save(unfinished, out, content, sheet), bool(args.out), say)
    if as_json:
        lost = [{"path": bad.path, "reason": bad.reason} for bad in skipped]
        print(json.dumps({"sequences": rows, "skipped": lost, "picture": picture and str(picture)}))
        return 0
    for row in rows:
        print(printable(row["path"]))
        for rank, hit in enumerate(row["actions"], 1):
            print(f"  {rank}. {printable(hit['action'])}  {100 * hit['probability']:.1f} %")
        for body in row["bodies"]:
            joints = ", ".join(f"{j['joint']} {j['gate']:.2f}" for j in body["joints"])
            frames = ", ".join(f"{100 * f['time']:.0f} % {f['gate']:.2f}" for f in body["frames"])
            print(f"  body {body['body']}: joints {joints}; at {frames} of its time")
    if picture:
        print(f"picture: {picture}")
    return 0


def _save(path: Path, out: Path, content: bytes | None, sheet: Image.Image | None) -> None:
    if content is not None:
        path.write_bytes(content)
    else:
        sheet.save(path, format=PICTURES[out.suffix.lower()])


class Model(model.Model):
    """A trained AFE-CNN (reconstruction) with the verb `recognise`."""

    name = "AFE-CNN (reconstruction)"

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.say = loaded, say
        self.source = f"{loaded.workdir}, step {loaded.step}"
        self.recogniser = Recogniser(loaded)

    def recognise(self, sequences: Sequence[Any]) -> model.Classified:
        """Probabilities of the actions of skeleton sequences, one after the other.

        sequences: each a path (`.skeleton`, `.csv`, `.json`, `.npy`, UTKinect's `.txt`; a `.npz` or `.pkl` of NTU RGB+D
        stands for all in it), or joints `[M, F, J, 3]` or `[F, J, 3]` in metres, NaN where a body is absent. Raises
        BadMedia, for a `.npz` or `.pkl` InputError.
        """
        given = model.listed(sequences, "sequences")
        clips = [c for i, x in enumerate(given) for c in self.recogniser.clips(x, f"sequence {i}")]
        return model.Classified(self.recogniser.classes, self.recogniser.probabilities(clips))


class Recogniser:
    """A loaded model with what turns sequences into its batches and its outputs into words and pictures."""

    def __init__(self, loaded: Loaded):
        self.loaded, self.config = loaded, loaded.config
        self.skeleton = SKELETONS[self.config.model.skeleton]
        self.classes = tuple(class_names.read(Path(loaded.workdir), self.config.model.classes))
        self.make = sources.evaluation_maker(self.config)

    def clips(self, given: Any, name: str) -> list[SkeletonClip]:
        """The sequences of a path, or the one of an array. Raises BadMedia and InputError."""
        if isinstance(given, str | Path):
            return read_clips(given, self.skeleton, self.config.data.track_gaps)
        return [SkeletonClip(name, UNKNOWN, as_bodies(given, self.skeleton, name))]

    def look(self, clips: Sequence[SkeletonClip]) -> list[dict[str, np.ndarray]]:
        """Of each sequence what the model gives, averaged over its crops: `probability [K]`, `joint_gates [2, J]`,
        `frame_gates [2, T]`; and `x [2, T, J, 3]`, the (first) crop."""
        crops = self.config.data.test_crops
        made = [
            self.make(clip, np.random.default_rng([number, crop]))
            for number, clip in enumerate(clips)
            for crop in range(crops)
        ]
        fields = {name: np.stack([row[name] for row in made]) for name in ("x", "present")}
        call = lambda batch: self.loaded.predict(self.loaded.variables, {STREAM: batch})  # noqa: E731
        out = model.in_batches(call, fields, self.config.data.eval_batch_size)
        share = np.asarray(jax.nn.softmax(out["logits"].astype(np.float32)))
        mean = lambda values: values.reshape(len(clips), crops, *values.shape[1:]).mean(1)  # noqa: E731
        found = {"probability": mean(share)} | {n: mean(out[n]) for n in ("joint_gates", "frame_gates")}
        found["x"] = fields["x"][::crops]
        return [{name: values[i] for name, values in found.items()} for i in range(len(clips))]

    def probabilities(self, clips: Sequence[SkeletonClip]) -> np.ndarray:
        """`[n, K]` float32."""
        return np.stack([one["probability"] for one in self.look(clips)]).astype(np.float32)

    def row(self, path: str, seen: Mapping[str, np.ndarray], top: int) -> dict[str, Any]:
        """JSON of one sequence: its `top` actions, and of each body the joints and times that the gates favour."""
        best = top_k(seen["probability"][None], top)[0]
        actions = [{"action": self.classes[i], "probability": round(float(seen["probability"][i]), 6)} for i in best]
        bodies = []
        for body in np.flatnonzero(seen["x"].any(axis=(1, 2, 3))):
            joints, frames = seen["joint_gates"][body], seen["frame_gates"][body]
            named = [
                {"joint": self.skeleton.joints[j], "gate": round(float(joints[j]), 4)}
                for j in np.argsort(-joints, kind="stable")[:NAMED]
            ]
            times = [
                {"time": round((int(t) + 0.5) / len(frames), 4), "gate": round(float(frames[t]), 4)}
                for t in np.argsort(-frames, kind="stable")[:NAMED]
            ]
            bodies.append({"body": int(body) + 1, "joints": named, "frames": times})
        return {"path": str(path), "actions": actions, "bodies": bodies}

    def title(self, row: Mapping[str, Any]) -> str:
        """The best action with its probability."""
        best = row["actions"][0]
        return f"{best['action']} {100 * best['probability']:.0f} %"

    def shown(self, clip: SkeletonClip, number: int) -> np.ndarray:
        """What is drawn of the sequence with this number: the (first) crop that the model sees, but from the front,
        whatever the model sees, `[2, T, J, 3]`."""
        front = SkeletonClip(clip.name, clip.label, normalise(clip.bodies, self.skeleton))
        return self.make(front, np.random.default_rng([number, 0]))["x"]

    def animation(self, clip: SkeletonClip, row: Mapping[str, Any], seen: Mapping[str, np.ndarray]) -> bytes:
        """A GIF of the first sequence with gates."""
        frames = drawing.frames_of(self.shown(clip, 0), self.skeleton, seen["joint_gates"], seen["frame_gates"])
        return drawing.animation([drawing.headed(frame, self.title(row), 13) for frame in frames])

    def sheet(
        self,
        clips: Sequence[SkeletonClip],
        rows: Sequence[Mapping[str, Any]],
        seen: Sequence[Mapping[str, np.ndarray]],
    ) -> Image.Image:
        """Up to `SHEET` sequences, a row each."""
        parts = [
            drawing.contact_sheet(
                self.shown(clip, number),
                self.skeleton,
                one["joint_gates"],
                one["frame_gates"],
                title=f"{Path(row['path']).name}: {self.title(row)}",
            )
            for number, (clip, row, one) in enumerate(list(zip(clips, rows, seen, strict=True))[:SHEET])
        ]
        return drawing.images.grid(parts, 1)


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: sequences of the test split with what the gates favour, their enhanced action pictures, gates
    over time, the confusion matrix."""
    c, recogniser = loaded.config, Recogniser(loaded)
    examples = data.splits[c.eval.split][STREAM]
    source = examples.source.source if isinstance(examples.source, sources.Repeated) else examples.source
    picked = np.linspace(0, len(source) - 1, min(SHOWN, len(source)), dtype=int)
    clips = [source[int(i)] for i in picked]
    seen = recogniser.look(clips)
    picture = jax.jit(pictures_of(c))
    spread = "Sequences are spread evenly over the split, not chosen."
    curves = []
    for number, (clip, one) in enumerate(zip(clips, seen, strict=True)):
        row = recogniser.row(clip.name, one, 1)
        truth = recogniser.classes[clip.label]
        verdict = "right" if row["actions"][0]["action"] == truth else f"wrong, it is {truth}"
        yield (
            f"Sequence {clip.name}: {recogniser.title(row)} ({verdict})",
            drawing.contact_sheet(
                recogniser.shown(clip, number), recogniser.skeleton, one["joint_gates"], one["frame_gates"]
            ),
            f"{spread} Discs: joints that the model weights above 1; bar: frames, red above 1, blue below. Seen from "
            "the front, the left side blue.",
        )
        out = {name: np.asarray(v)[0] for name, v in picture(loaded.variables, one["x"][:1]).items()}
        parts = [PARTS[0], *PARTS[1:2] * bool(c.model.bve), *PARTS[2:] * bool(c.model.te)]
        yield (
            f"Action picture of {clip.name}",
            drawing.action_picture(out["picture"], parts),
            "What the convolutions see of the first body: rows are frames, columns joints by body part, three channels "
            "a picture, normalised and weighted by the gates.",
        )
        curves.append(Series(truth, list(range(c.data.frames)), one["frame_gates"][0].tolist()))
    if c.model.kfe:
        yield (
            "Gates over time",
            plot(curves, "frame", "gate of the frame, first body"),
            f"{spread} A gate is 1 where the model treats all frames alike.",
        )
    kept = Path(loaded.workdir) / "eval" / f"{c.eval.split}.npz"
    if kept.is_file():
        counts = read_npz(kept, "evaluate again")["confusion"]
        yield (
            "Confusion matrix",
            drawing.confusion_picture(counts, recogniser.classes),
            f"Of split {c.eval.split!r}: rows are true actions, columns what was recognised, green where right.",
        )


def pooled(folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the metrics of all folds those over all of their sequences together (not the mean of the folds)."""
    total = sum(m["clips"] for m in folds)
    names = [name for name in ("top1", "top5") if all(name in m for m in folds)]
    return {"clips": total} | {name: sum(m[name] * m["clips"] for m in folds) / total for name in names}


def results_tables(metrics: dict[str, float]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """Accuracy in total, of the challenging pairs, and of every class, the worst first."""
    total = int(metrics["clips"])
    plain = [[name, round(v, 2)] for name, v in metrics.items() if "/" not in name and name != "clips"]
    tables = [(f"Actions of {total:,} sequences", ["", "percent"], plain, "")]
    pairs = [name.removeprefix("pair/") for name in metrics if name.startswith("pair/")]
    if pairs:
        rows = [
            [p.replace("-", " and "), *(round(metrics[f"{m}/{p}"], 2) for m in ("pair", "confused"))] for p in pairs
        ]
        note = "recognised: share of the sequences of both; confused: share that is taken for the other one"
        tables.append(("Challenging pairs of actions", ["actions", "recognised %", "confused %"], rows, note))
    classes = {int(name.removeprefix("class/")): v for name, v in metrics.items() if name.startswith("class/")}
    rows = [[number, round(v, 2)] for number, v in sorted(classes.items(), key=lambda item: (item[1], item[0]))]
    if rows:
        tables.append(("Accuracy of each class, the worst first", ["class, from 1", "percent"], rows, ""))
    return tables
