"""Classify a folder of your own unlabelled images with a trained DRDR, with confidence and nearest anchors."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, picture, place, whole
from jaxvl.core import class_names, model
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import printable, replacing
from jaxvl.core.session import Loaded
from jaxvl.data import inputs, pipeline
from jaxvl.data.readers.classification.image_folder import LabelledImage, read_unlabelled
from jaxvl.methods.drdr import task as tasks
from jaxvl.methods.drdr.data import MakeImage, evaluation_maker
from jaxvl.viz import images
from jaxvl.viz.radial import Spokes, radial_picture

SHOWN, SHEET_IMAGES = 1000, 24
PATHS = ("target", "source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument(
        "--images", required=True, type=place, metavar="DIR", help="folder of images, with its subfolders"
    )
    parser.add_argument("--path", choices=PATHS, default="target", help="of the domain that they are like (target)")
    parser.add_argument("--top", type=whole(1), default=3, metavar="K", help="classes and anchors an image")
    parser.add_argument("--out", type=picture, metavar="PNG", help="a sheet of the images with their classes")


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Prints class, confidence and nearest anchors of every image."""
    k = loaded.config.model.classes
    if not 1 <= args.top <= k:
        raise InputError(f"--top {args.top}: needs 1 to {k}, the number of classes")
    if loaded.config.model.trunk == "none":
        raise InputError(f"--workdir {loaded.workdir}: this model takes feature vectors, no images")
    found = read_unlabelled(args.images)
    rows, skipped = classify(loaded, found, args.path, args.top)
    for path, reason in skipped:
        print(printable(f"skipped {path}: {reason}"), file=sys.stderr)
    if not rows:
        raise InputError(f"--images {args.images}: none of its {len(found)} images can be decoded")
    if args.out:
        with replacing(Path(args.out)) as unfinished:
            sheet(rows).save(unfinished, format=PICTURES[Path(args.out).suffix.lower()])
    if as_json:
        kept = [{name: v for name, v in row.items() if name != "pixels"} for row in rows]
        print(json.dumps({"images": kept, "skipped": [p for p, _ in skipped], "sheet": args.out}))
        return 0
    for row in rows:
        best = "  ".join(f"{c['class']} {100 * c['confidence']:.1f} %" for c in row["classes"])
        near = "  ".join(f"{a['class']} {a['distance']:.2f}" for a in row["anchors"])
        print(f"{printable(row['path'])}\n    classes {best}\n    anchors {near}")
    if args.out:
        print(f"sheet: {args.out}")
    return 0


class Model(model.Model):
    """A trained DRDR with the verbs `classify` and `embed`; each takes the path of a domain, 'target' or 'source'."""

    name = "DRDR"

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.say = loaded, say
        self.source = f"{loaded.workdir}, step {loaded.step}"
        self.classes = tuple(class_names.read(loaded.workdir, loaded.config.model.classes))

    def classify(self, images: Sequence[Any], path: str = "target") -> model.Classified:
        """Classes of pictures (paths, Pillow pictures, uint8 `[H, W, 3]`) that are like the domain `path`. Raises
        BadMedia."""
        logits = self._outputs(images, path, f"{path}_logits")
        return model.Classified(self.classes, np.asarray(jax.nn.softmax(logits)))

    def embed(self, images: Sequence[Any], path: str = "target") -> np.ndarray:
        """Features `[n, F]` float32 in the space of the source: the target's behind the orthogonal layer."""
        return self._outputs(images, path, "turned" if path == "target" else "features")

    encode_image = embed

    def _outputs(self, images: Sequence[Any], path: str, name: str) -> np.ndarray:
        if path not in PATHS:
            raise InputError(f"path {path!r}: is none of {', '.join(PATHS)}")
        config, given = self.loaded.config, model.listed(images, "images")
        make = evaluation_maker(config)
        if not isinstance(make, MakeImage):
            rows = np.stack([np.asarray(x, np.float32) for x in given])
        else:
            rows = np.stack([make.pixels(inputs.picture(x, i)) for i, x in enumerate(given)])
        call = lambda batch: {"x": self.loaded.predict(self.loaded.variables, {"images": batch})[name]}  # noqa: E731
        return model.in_batches(call, {"images": rows}, config.data.eval_batch_size)["x"]


def classify(
    loaded: Loaded, found: Sequence[LabelledImage], path: str, top: int
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """A row an image, and `(file, reason)` of those that cannot be decoded.

    A row: `path`, `classes` (the `top` most probable, with `confidence`) and `anchors` (the `top` nearest local anchors
    of the path's domain, with `distance` and Student-t `share`).
    """
    make, names = evaluation_maker(loaded.config), class_names.read(loaded.workdir, loaded.config.model.classes)
    good, skipped = [], []
    for image in found:
        try:
            good.append((image.path, make(image, np.random.default_rng(0))["images"]))
        except BadMedia as error:
            skipped.append((image.path, error.reason))
    rows = []
    size = loaded.config.data.eval_batch_size
    anchors = np.asarray(loaded.variables["radial"]["local"])[PATHS[::-1].index(path)]
    for begin in range(0, len(good), size):
        part = good[begin : begin + size]
        batch = np.stack([part[i % len(part)][1] for i in range(size)])  # full batches: one shape is compiled
        out = {k: np.asarray(v) for k, v in loaded.predict(loaded.variables, {"images": {"images": batch}}).items()}
        logits = out[f"{path}_logits"][: len(part)]
        features = out["turned" if path == "target" else "features"][: len(part)]
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        squared = np.square(features[:, None] - anchors[None]).sum(-1)
        student = 1 / (1 + squared)
        student /= student.sum(1, keepdims=True)
        for (file, pixels), p, d, q in zip(part, shares, squared, student):
            best, near = np.argsort(-p, kind="stable")[:top], np.argsort(d, kind="stable")[:top]
            classes = [{"class": names[i], "confidence": round(float(p[i]), 4)} for i in best]
            nearest = [
                {"class": names[i], "distance": round(float(d[i]) ** 0.5, 4), "share": round(float(q[i]), 4)}
                for i in near
            ]
            rows.append({"path": str(file), "classes": classes, "anchors": nearest, "pixels": pixels})
    return rows, skipped


def sheet(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """The first images with class and confidence below each."""
    cells = []
    for row in rows[:SHEET_IMAGES]:
        pixels = row["pixels"]
        picture = images.scale(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, 96)
        best = row["classes"][0]
        cells.append(images.label(picture, f"{best['class']} {100 * best['confidence']:.0f} %", 12))
    return images.grid(cells, 8)


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: the radial structures of source and target in one plane, without and with the orthogonal
    layer."""
    task = tasks.parse(loaded.config.data.task, loaded.config.data.external)
    names = class_names.read(loaded.workdir, loaded.config.model.classes)
    parts = {d: _features(loaded, data.splits["source"][d]) for d in task.sources}
    source = _joined("source", list(parts.values()), "features")
    tested = data.splits.get("test", {})
    targets = [_features(loaded, tested[d]) for d in task.targets or task.external if d in tested]
    if not targets:
        return  # without labels there are no class means to draw
    before = _joined("target", targets, "features", dashed=True)
    after = _joined("target", targets, "turned", dashed=True)
    yield (
        "Radial structures",
        radial_picture(
            [[source, before], [source, after]],
            ["target without its orthogonal layer", "target through its orthogonal layer"],
            names,
        ),
        f"Spokes are class means around the mean of all, of {len(source.features)} source and {len(after.features)} "
        "target images that were not chosen; the plane is that of the first two principal directions of the source's "
        "spokes. Target classes are the true ones, which training never saw. How the picture was before adaptation is "
        "in the report of a run of source only.",
    )


def _joined(name: str, parts: list[dict[str, np.ndarray]], field: str, dashed: bool = False) -> Spokes:
    features, labels = (np.concatenate([p[key] for p in parts]) for key in (field, "label"))
    return Spokes(name, features, labels, dashed)


def _features(loaded: Loaded, examples: Any) -> dict[str, np.ndarray]:
    """Features before and behind the orthogonal layer of up to `SHOWN` images, evenly spread over the domain, and their
    labels."""
    out: dict[str, list] = {"features": [], "turned": [], "label": []}
    picked = np.linspace(0, len(examples.source) - 1, min(SHOWN, len(examples.source)), dtype=int)
    spread = dataclasses.replace(examples, source=[examples.source[i] for i in picked])
    for batch in pipeline.eval_batches(spread, seed=loaded.config.seed):
        got = loaded.predict(loaded.variables, {"images": {"images": batch["images"]}})
        keep = np.flatnonzero(batch["_valid"])
        for field in ("features", "turned"):
            out[field].append(np.asarray(got[field])[keep])
        out["label"].append(np.array(batch["_label"])[keep])
    return {k: np.concatenate(v) for k, v in out.items()}


def results_tables(metrics: dict[str, float]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """Accuracy of every domain, and their mean."""
    domains = [name.removeprefix("accuracy/") for name in metrics if name.startswith("accuracy/")]
    other = any(f"source_path/{d}" in metrics for d in domains)
    rows: list[list[Any]] = []
    for d in domains:
        row = [d, int(metrics[f"images/{d}"]), *(round(metrics[f"{m}/{d}"], 2) for m in ("accuracy", "mean_per_class"))]
        rows.append([*row, *([round(metrics.get(f"source_path/{d}", float("nan")), 2)] if other else [])])
    rows.append(["accuracy", "", round(metrics["accuracy"], 2), "", *([""] if other else [])])
    columns = ["domain", "images", "top-1 %", "mean per class %", *(["top-1 % by the source path"] if other else [])]
    return [("Accuracy per domain", columns, rows, "")]
