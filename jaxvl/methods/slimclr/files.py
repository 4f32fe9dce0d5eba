"""Embed a folder of pictures with the network of a chosen width, and find the nearest neighbours of some of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, picture, place, positive, whole
from jaxvl.core import model
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import keep, printable, read_json
from jaxvl.core.session import Loaded
from jaxvl.core.writers import read_metrics
from jaxvl.data import images as images_
from jaxvl.data import inputs
from jaxvl.data.readers.classification.image_folder import LabelledImage, read_unlabelled
from jaxvl.data.readers.classification.image_records import Picture, load_picture, picture_id
from jaxvl.methods.slimclr.data import WITH_LABELS, central
from jaxvl.methods.slimclr.method import model_config
from jaxvl.methods.slimclr.model import Encoder
from jaxvl.metrics.knn import neighbours
from jaxvl.viz.curves import Series
from jaxvl.viz.plot import plot
from jaxvl.viz.retrieval import Hit, retrieval_sheet

SHEET_QUERIES, SHEET_TOP = 6, 8
ROUNDS = 5
"""Timed batches of a width, of which the fastest counts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument(
        "--images", required=True, type=place, metavar="DIR", help="folder of pictures, with its subfolders"
    )
    parser.add_argument(
        "--width", type=positive, default=1.0, metavar="W", help="one of the trained widths; default 1.0"
    )
    parser.add_argument(
        "--like", type=place, action="append", default=[], metavar="FILE", help="find its nearest neighbours"
    )
    parser.add_argument("--top", type=whole(1), default=5, metavar="K", help="neighbours of each")
    parser.add_argument("--out", type=place, metavar="NPZ", help="features and names; default WORKDIR/features.npz")
    text = "the neighbours as pictures; default WORKDIR/neighbours.png"
    parser.add_argument("--sheet", type=picture, metavar="PNG", help=text)
    parser.add_argument("--throughput", action="store_true", help="time every width, plot it against its accuracy")


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Embeds the folder, writes features, neighbours and the plot that was asked for."""
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    index = index_of(loaded, args.width)
    pictures = read_unlabelled(args.images)
    features, names, skipped = embed(loaded, pictures, index)
    for line in skipped:
        say(f"skipped {line}")
    if not names:
        raise InputError(f"--images {args.images}: none of the {len(skipped)} pictures could be decoded; {skipped[0]}")

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.savez(file, features=features, names=np.array(names), width=args.width, step=loaded.step)

    out = keep(Path(args.out or loaded.workdir / "features.npz"), write, bool(args.out), say)
    found: dict[str, Any] = {
        "features": out and str(out),
        "pictures": len(names),
        "dim": features.shape[1],
        "skipped": skipped,
    }
    rankings = []
    folder = Path(args.images)
    if args.like:
        queries, asked, bad = embed(loaded, [LabelledImage(q, -1, q) for q in args.like], index)
        if bad:
            raise InputError(f"--like {bad[0]}")
        rankings = list(_rank(asked, queries, features, names, folder, args.top))
        found["neighbours"] = [
            {"query": q, "results": [{"path": p, "cosine": c} for p, c in row]} for q, row in rankings
        ]
        found |= _kept_picture("sheet", _sheet(rankings), args.sheet, loaded.workdir / "neighbours.png", say)
    if args.throughput:
        rates, accuracies = throughput(loaded), accuracy_of(loaded)
        found["images_per_s"] = rates
        if accuracies:
            image = _throughput_plot(rates, accuracies)
            found |= _kept_picture("throughput_plot", image, None, loaded.workdir / "throughput.png", say)
    if as_json:
        print(json.dumps(found))
        return 0
    print(
        f"{len(names)} pictures, {features.shape[1]} features each at width {args.width:g}"
        + (f": {out}" if out else "")
    )
    for query, row in rankings:
        print(printable(query))
        for rank, (path, cosine) in enumerate(row, 1):
            print(f"  {rank}. {cosine:+.4f}  {printable(path)}")
    for name, rate in found.get("images_per_s", {}).items():
        print(f"{name}: {rate:,.0f} pictures/s")
    for key in ("sheet", "throughput_plot"):
        if key in found:
            print(f"{key.replace('_', ' ')}: {found[key]}")
    return 0


class Model(model.Model):
    """A trained SlimCLR with the verbs `embed`, `similarity` and, with labels, `classify`; each takes a width."""

    name = "SlimCLR"

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.say = loaded, say
        self.source = f"{loaded.workdir}, step {loaded.step}"
        self._runs: dict[int, Callable] = {}

    def embed(self, images: Sequence[Any], width: float = 1.0) -> np.ndarray:
        """Features `[n, F w]` float32 of pictures (paths, Pillow pictures, uint8 `[H, W, 3]`) from the network of one
        width. Raises BadMedia."""
        index = index_of(self.loaded, width)
        if index not in self._runs:
            self._runs[index] = features_of_width(self.loaded, index)
        call = lambda batch: {"x": self._runs[index](batch["image"])}  # noqa: E731
        return model.in_batches(call, {"image": self._pixels(images)}, self.loaded.config.data.eval_batch_size)["x"]

    encode_image = embed

    def similarity(self, a: Any, b: Any, width: float = 1.0) -> np.ndarray:
        """Cosines `[n, m]` of n and m pictures, either of which may be features that were embedded before."""
        a, b = (model.unit(x if model.is_vectors(x) else self.embed(x, width)) for x in (a, b))
        return model.cosine(a, b)

    def classify(self, images: Sequence[Any], width: float = 1.0) -> model.Classified:
        """Classes of pictures by the classifier of one width. InputError: the model was trained without labels."""
        if self.loaded.config.model.framework not in WITH_LABELS:
            raise InputError(
                f"{self.source}: was trained without labels (config.model.framework "
                f"{self.loaded.config.model.framework!r}); train a probe on it first (configs slimclr/imagenet_probe)"
            )
        name = f"logits_{model_config(self.loaded.config).names[index_of(self.loaded, width)]}"
        call = lambda batch: {"x": self.loaded.predict(self.loaded.variables, {"query": batch})[name]}  # noqa: E731
        size = self.loaded.config.data.eval_batch_size
        logits = model.in_batches(call, {"image": self._pixels(images)}, size)["x"]
        names = tuple(str(i) for i in range(logits.shape[1]))
        return model.Classified(names, np.asarray(jax.nn.softmax(logits)))

    def _pixels(self, images: Sequence[Any]) -> np.ndarray:
        d = self.loaded.config.data
        given = model.listed(images, "images")
        rows = [central(images_.to_rgb(inputs.picture(x, i)), d.image_size, d.eval_resize) for i, x in enumerate(given)]
        return np.stack(rows)


def _kept_picture(
    name: str, image: Image.Image, asked: str | None, default: Path, say: Callable[[str], None]
) -> dict[str, str]:
    """`{name: file}`, empty where the default place cannot be written."""
    out = Path(asked or default)
    kind = PICTURES[out.suffix.lower()]
    return {name: str(out)} if keep(out, lambda p: image.save(p, format=kind), bool(asked), say) else {}


def index_of(loaded: Loaded, width: float) -> int:
    """Position of `width` among the trained ones. InputError for another."""
    widths = model_config(loaded.config).widths
    if width not in widths:
        raise InputError(f"--width {width:g}: this model has the widths {', '.join(f'{w:g}' for w in widths)}")
    return widths.index(width)


def features_of_width(loaded: Loaded, index: int) -> Callable[[np.ndarray], jax.Array]:
    """`images uint8 [B, R, R, 3] -> features [B, F w]` of one width, compiled once; the others are not computed."""
    encoder = Encoder(model_config(loaded.config))
    own = {
        "params": loaded.variables["params"]["encoder"],
        "batch_stats": loaded.variables["batch_stats"]["encoder"],
    }
    return jax.jit(lambda images: encoder.apply(own, images, False, index, method=Encoder.features))


def embed(loaded: Loaded, pictures: Sequence[Picture], index: int) -> tuple[np.ndarray, list[str], list[str]]:
    """`(features [n, F w] float32, names, skipped)`; pictures that cannot be decoded are skipped, with the reason."""
    d, run_ = loaded.config.data, features_of_width(loaded, index)
    rows, names, skipped = [], [], []
    with futures.ThreadPoolExecutor(max(1, loaded.config.pipeline.threads)) as pool:
        for start in range(0, len(pictures), d.eval_batch_size):
            part = pictures[start : start + d.eval_batch_size]
            good = []
            for picture, pixels in zip(part, pool.map(lambda p: _pixels(p, d.image_size, d.eval_resize), part)):
                if isinstance(pixels, BadMedia):
                    skipped.append(str(pixels))
                else:
                    good.append(pixels)
                    names.append(picture_id(picture))
            if good:  # full batches: one shape is compiled
                batch = np.stack([good[i % len(good)] for i in range(d.eval_batch_size)])
                rows.append(np.asarray(run_(batch))[: len(good)])
    return (np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)), names, skipped


def _pixels(picture: Picture, size: int, resize: int) -> np.ndarray | BadMedia:
    try:
        return central(load_picture(picture), size, resize)
    except BadMedia as error:
        return error


def _rank(asked, queries, features, names, folder: Path, top: int) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """For each query the nearest pictures of the folder but itself."""
    found, cosines = neighbours(features, queries, top + 1)
    for query, row, scores in zip(asked, found, cosines, strict=True):
        own = Path(query).resolve()
        hits = [(str(folder / names[i]), round(float(c), 6)) for i, c in zip(row, scores, strict=True)]
        yield query, [hit for hit in hits if Path(hit[0]).resolve() != own][:top]


def _sheet(rankings: Sequence[tuple[str, list[tuple[str, float]]]]) -> Image.Image:
    look = lambda path: central(load_picture(LabelledImage(path, -1, path)), 96, 96)[None]  # noqa: E731
    rows = [
        [Hit(look(q), 1.0, False, "query"), *(Hit(look(p), c, False, Path(p).name) for p, c in row)]
        for q, row in rankings
    ]
    return retrieval_sheet([Path(q).name for q, _ in rankings], rows, frames_per_clip=1, height=96)


def throughput(loaded: Loaded) -> dict[str, float]:
    """Pictures a second of each width on this machine: the fastest of a few batches, decoding not counted."""
    cfg, d = model_config(loaded.config), loaded.config.data
    images = np.random.default_rng(0).integers(0, 256, (d.eval_batch_size, d.image_size, d.image_size, 3), np.uint8)
    placed, rates = jax.device_put(images), {}
    for index, name in enumerate(cfg.names):
        run_ = features_of_width(loaded, index)
        jax.block_until_ready(run_(placed))
        seconds = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            jax.block_until_ready(run_(placed))
            seconds.append(time.perf_counter() - begun)
        rates[name] = d.eval_batch_size / min(seconds)
    return rates


def accuracy_of(loaded: Loaded) -> dict[str, dict[str, float]]:
    """`{monitor: {width: top-1}}` of the last evaluation, empty before the first."""
    path = loaded.workdir / "eval" / f"{loaded.config.eval.split}.json"
    if not path.is_file():
        return {}
    found: dict[str, dict[str, float]] = {}
    metrics = read_json(path, dict, "delete it, and evaluate again").get("metrics")
    for key, value in metrics.items() if isinstance(metrics, dict) else ():
        monitor, _, name = key.partition("/")
        if monitor in ("knn", "linear", "shared", "top1"):
            found.setdefault(monitor, {})[name] = value
    return found


def _throughput_plot(rates: dict[str, float], accuracies: dict[str, dict[str, float]]) -> Image.Image:
    names = list(rates)
    series = [Series(m, [rates[n] for n in names], [rows[n] for n in names]) for m, rows in accuracies.items()]
    return plot(series, "pictures per second", "top-1 in percent", [names] * len(series))


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: neighbours at the largest and the smallest width, throughput against accuracy, and how the
    gradients of the widths compare."""
    cfg, split = model_config(loaded.config), loaded.config.eval.split
    stored = np.load(loaded.workdir / "eval" / f"{split}.npz") if (
        loaded.workdir / "eval" / f"{split}.npz"
    ).is_file() else None  # fmt: skip
    if stored is not None and f"features_{cfg.names[0]}" in stored:
        query = data.splits[split]["query"]
        for name in dict.fromkeys((cfg.names[0], cfg.names[-1])):
            yield (
                f"Nearest neighbours at {name}",
                _stored_sheet(stored, name, query),
                f"Pictures spread evenly over split {split!r}, not chosen, each with the nearest of the others by the "
                f"features of {name}. A green frame has the same label, which training never saw.",
            )
    accuracies = accuracy_of(loaded)
    if accuracies:
        rates = throughput(loaded)
        yield (
            "Throughput against accuracy",
            _throughput_plot(rates, accuracies),
            "Every point is one width of the same weights, on this machine, without decoding.",
        )
    rows = [r for r in read_metrics(loaded.workdir, "train") if any(k.startswith("gradient/rest_over") for k in r)]
    if len(rows) > 1:
        keys = [f"gradient/rest_over_{n}" for n in cfg.names[1:]]
        steps = [r["step"] for r in rows]
        series = [Series(k.rsplit("_", 1)[1], steps, [r[k] for r in rows]) for k in keys]
        yield (
            "Gradient imbalance",
            plot(series, "step", "gradient outside the narrow width over gradient inside"),
            "Below 1 the weights that a narrow width shares get the larger gradient, as under naive sharing; an "
            "ordinary network is above 1.",
        )


def _stored_sheet(stored: Any, name: str, query: Any) -> Image.Image:
    features, labels = stored[f"features_{name}"], stored["label"]
    picked = np.linspace(0, len(features) - 1, min(SHEET_QUERIES, len(features)), dtype=int)
    found, cosines = neighbours(features, features[picked], SHEET_TOP + 1)
    look = lambda i: np.asarray(load_picture(query.source[int(i)]).resize((64, 64)))[None]  # noqa: E731
    rows, texts = [], []
    for p, row, scores in zip(picked, found, cosines, strict=True):
        hits = [Hit(look(p), 1.0, False, "query")]
        hits += [
            Hit(look(i), float(c), bool(labels[i] == labels[p]), f"{labels[i]}")
            for i, c in zip(row, scores, strict=True)
            if i != p
        ]
        rows.append(hits[: SHEET_TOP + 1])
        texts.append(f"label {labels[p]}")
    return retrieval_sheet(texts, rows, frames_per_clip=1)


def results_tables(metrics: dict[str, float]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """One row a width."""
    kinds = list(dict.fromkeys(k.partition("/")[0] for k in metrics if "/" in k))
    names = sorted({k.partition("/")[2] for k in metrics if "/" in k} - {"pixels"}, reverse=True)
    names += ["pixels"] if "knn/pixels" in metrics or "linear/pixels" in metrics else []
    titles = {"knn": "kNN", "linear": "linear probe", "shared": "one shared probe", "top1": "top-1", "top5": "top-5"}
    shown = [k for k in titles if k in kinds]
    cell = lambda key: round(metrics[key], 2) if key in metrics else "-"  # noqa: E731
    rows = [[n, *(cell(f"{k}/{n}") for k in shown)] for n in names]
    bank = f", labelled by {int(metrics['bank'])}" if "bank" in metrics else ""
    title = f"Top-1 in percent of {int(metrics['query'])} pictures{bank}"
    return [(title, ["width", *(titles[k] for k in shown)], rows, "")]
