"""Search a folder of your own videos by text or by video, or rank captions for a video, with a trained CenterCLIP."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, picture, place, whole, word
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import keep, printable
from jaxvl.core.session import Loaded
from jaxvl.data import text as texts
from jaxvl.data.readers.common import VideoText, read_ids
from jaxvl.data.threads import map_ahead
from jaxvl.data.video import Clip, load_clip, open_source
from jaxvl.methods.centerclip.data import build_tokenizer
from jaxvl.methods.centerclip.method import model_config
from jaxvl.methods.centerclip.reduce import Reduction, token_positions
from jaxvl.metrics import retrieval
from jaxvl.search import index as indexing
from jaxvl.viz.retrieval import Hit, retrieval_sheet
from jaxvl.viz.tokens import kept_tokens

SHEET_QUERIES, SHEET_TOP, SHEET_FRAMES = 6, 5, 3
RECALLS = ("R@1", "R@5", "R@10", "MdR", "MnR")
VIDEO_QUERY = "video:"
PREPROCESSING = 1  # raised whenever the pixels that the model gets from a file change


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument("--videos", type=place, metavar="DIR", help="folder of videos to search, with its subfolders")
    parser.add_argument(
        "--text", type=word, action="append", default=[], metavar="QUERY", help="may be given several times"
    )
    text = "search for similar videos"
    parser.add_argument("--like", type=place, action="append", default=[], metavar="VIDEO", help=text)
    text = "rank these captions, one a line, for each --like video"
    parser.add_argument("--captions", type=place, metavar="FILE", help=text)
    parser.add_argument("--top", type=whole(1), default=5, metavar="K", help="results a query")
    parser.add_argument(
        "--ask", action="store_true", help=f"then answer standard input: a text a line, or {VIDEO_QUERY}PATH for --like"
    )
    text = "embeddings of DIR, kept; default: a folder in WORKDIR/index"
    parser.add_argument("--index", type=place, metavar="PATH", help=text)
    parser.add_argument("--rebuild", action="store_true", help="make the index again, from every video")
    parser.add_argument("--out", type=picture, metavar="PNG", help="the picture sheet; default WORKDIR/search.png")
    parser.add_argument("--no-sheet", action="store_true", help="no picture sheet: nothing is decoded for a search")


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Brings the index of the folder up to date, ranks it for each query, prints the ranking, writes the sheet."""
    _check(args)
    if (head := loaded.config.model.head) == "tightTransf":
        raise InputError(
            f"--workdir {loaded.workdir}: its head {head} compares each text with each video in the network, so there "
            "is nothing to index; `jaxvl evaluate` ranks with it, search takes meanP, seqTransf or seqLSTM"
        )
    if (order := loaded.config.data.frame_order) != "forward":
        raise InputError(f"--workdir {loaded.workdir}: takes frames in order {order!r}; search needs 'forward'")
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    tokenizer = build_tokenizer(loaded.config, loaded.workdir, [])
    captions = read_ids(args.captions, "the captions to rank") if args.captions else []
    report: dict[str, Any] = {}
    index = None
    if args.videos:
        index, report = _open_index(loaded, args, say)
    search = Search(loaded, tokenizer, index, captions, args.top, say)
    found = search.by_text(args.text) if args.text else []
    ranked = [search.captions_of(name) for name in args.like] if captions else []
    found += [] if captions else [search.by_video(name) for name in args.like]
    folder = Path(args.videos or ".")
    shown = [(query, row) for query, row in found if row]
    sheet = None
    if shown and not args.no_sheet:
        image, out = _sheet(folder, shown), Path(args.out or loaded.workdir / "search.png")
        kind = PICTURES[out.suffix.lower()]
        sheet = keep(out, lambda unfinished: image.save(unfinished, format=kind), bool(args.out), say)
    rows = [_row(folder, *one) for one in found]
    if as_json and found + ranked:
        print(json.dumps({"queries": rows, "captions": ranked, **report, "sheet": sheet and str(sheet)}), flush=True)
    elif not as_json:
        lines = [line for row in [*rows, *ranked] for line in _lines(row)]
        for line in [*lines, f"sheet: {sheet}"] if sheet else lines:
            print(line, flush=True)
    if args.ask:
        _answer(search, folder, _lines_of(sys.stdin), as_json, say)
    return 0


class Search:
    """What answers queries once an index is open: embeddings of the videos, and of captions to rank for a video."""

    def __init__(
        self,
        loaded: Loaded,
        tokenizer: Any,
        index: indexing.SearchIndex | None,
        captions: Sequence[str],
        top: int,
        say: Callable[[str], None],
    ):
        self.loaded, self.tokenizer, self.index, self.top, self.say = loaded, tokenizer, index, top, say
        self.gallery = None if index is None else index.stack()
        self.captions, self.vectors = captions, self.embed(captions) if captions else None

    def embed(self, queries: Sequence[str]) -> np.ndarray:
        """Unit embeddings `[n, E]` of texts; names the words that the vocabulary lacks."""
        if unknown := texts.unknown_words(self.tokenizer, queries):
            self.say(f"words the model has never seen, read as unknown: {', '.join(unknown)}")
        return embed_texts(self.loaded, self.tokenizer, queries)

    def by_text(self, queries: Sequence[str]) -> list[tuple[str, list[indexing.Found]]]:
        """Each query with the videos nearest to it."""
        return list(zip(queries, self.gallery.search(self.embed(queries), self.top)))

    def by_video(self, name: str) -> tuple[str, list[indexing.Found]]:
        """A video with those nearest to it, itself left out. Raises BadMedia."""
        (row,) = self.gallery.search(_vectors_of(self.loaded, Path(name), self.index).video[None], self.top + 1)
        own = _name_in(self.index, Path(name))
        return name, [found for found in row if found.name != own][: self.top]

    def captions_of(self, name: str) -> dict[str, Any]:
        """The captions nearest to a video, best first. Raises BadMedia."""
        video = _vectors_of(self.loaded, Path(name), self.index)
        gallery = indexing.Gallery((name,), *(a[None] for a in dataclasses.astuple(video)))
        scores = self.vectors @ video.video
        return {
            "query": name,
            "results": [
                {
                    "caption": self.captions[i],
                    "score": round(float(scores[i]), 6),
                    "best_segment": _seconds(gallery.best_segment(self.vectors[i], 0)),
                }
                for i in np.argsort(-scores, kind="stable")[: self.top]
            ],
        }


def _lines_of(stream: TextIO) -> Iterator[str]:
    """Lines in UTF-8 whatever the locale; bytes that are none stand for the names of files that hold them."""
    if not hasattr(stream, "buffer"):
        yield from stream
        return
    for line in stream.buffer:
        yield line.decode("utf-8", "surrogateescape")


def _answer(search: Search, folder: Path, lines: Iterable[str], as_json: bool, say: Callable[[str], None]) -> None:
    """Answers each line as it comes, with the milliseconds that it took; what is wrong with one is said and passed."""
    embed_texts(search.loaded, search.tokenizer, [VIDEO_QUERY])  # compiles
    say(f"ready: a text a line, or {VIDEO_QUERY}PATH")
    for query in filter(None, map(str.strip, lines)):
        begun = time.perf_counter()
        try:
            name = query.removeprefix(VIDEO_QUERY).strip()
            if not name or "\0" in query:
                raise InputError(f"give a text, or {VIDEO_QUERY}PATH, without NUL")
            if search.gallery is None and not (search.captions and query.startswith(VIDEO_QUERY)):
                raise InputError("--videos: name the folder to search")
            if not query.startswith(VIDEO_QUERY):
                text = query.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                row = _row(folder, *search.by_text([text])[0])
            elif search.captions:
                row = search.captions_of(os.path.expanduser(name))
            else:
                row = _row(folder, *search.by_video(os.path.expanduser(name)))
        except (InputError, BadMedia, OSError) as error:  # a name that is too long, too
            row = {"query": query, "error": str(error)}
        row["ms"] = round(1000 * (time.perf_counter() - begun), 1)
        print(json.dumps(row) if as_json else "\n".join(_lines(row)), flush=True)


def _row(folder: Path, query: str, row: Sequence[indexing.Found]) -> dict[str, Any]:
    hits = [
        {"path": str(folder / f.name), "score": round(f.score, 6), "best_segment": _seconds(f.segment)} for f in row
    ]
    return {"query": query, "results": hits}


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    yield printable(row["query"]) + (f"  ({row['ms']:.1f} ms)" if "ms" in row else "")
    if "error" in row:
        yield f"  {printable(row['error'])}"
    for rank, hit in enumerate(row.get("results", ()), 1):
        start, end = hit["best_segment"]
        shown = printable(hit.get("path") or hit["caption"])
        yield f"  {rank}. {hit['score']:+.4f}  {shown}  [{start:.1f}-{end:.1f} s]"


def _check(args: argparse.Namespace) -> None:
    if not args.text and not args.like and not args.ask:
        raise InputError("--text, --like or --ask: say what to search for")
    if args.captions and not args.like and not args.ask:
        raise InputError("--captions: are ranked for a video; name it with --like")
    if not args.videos and (args.text or not args.captions):
        raise InputError("--videos: name the folder to search")
    if args.videos and not Path(args.videos).is_dir():
        raise InputError(f"--videos {args.videos}: no such folder")


def _open_index(loaded: Loaded, args: argparse.Namespace, say) -> tuple[indexing.SearchIndex, dict[str, Any]]:
    """The index of `--videos`, up to date, and what JSON says about it."""
    folder = Path(args.videos)
    key = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = Path(args.index) if args.index else loaded.workdir / "index" / key
    embed = lambda paths: embed_videos(loaded, paths)  # noqa: E731
    index, counts = indexing.refresh(
        path, folder, provenance(loaded), embed, rebuild=args.rebuild, say=say, required=bool(args.index)
    )
    width = model_config(loaded.config).clip.embed_dim
    if any(len(vectors.video) != width for vectors in index.vectors.values()):
        raise InputError(
            f"{path}: damaged search index (the model has vectors of {width} numbers); --rebuild makes it again"
        )
    say(f"index {path}: {counts.line()}")
    skipped = [f"{folder / name}: {reason}" for name, reason in counts.bad]
    for line in skipped:
        say(f"skipped {line}")
    if not index.vectors:
        raise InputError(f"--videos {folder}: none of the {len(skipped)} files could be decoded; first: {skipped[0]}")
    about = {"path": str(path), "embedded": counts.embedded, "kept": counts.kept, "dropped": counts.dropped}
    return index, {"videos": len(index.vectors), "skipped": skipped, "index": about}


def provenance(loaded: Loaded) -> dict[str, Any]:
    """What embeddings depend on beside the file: an index of another one is not used."""
    config = loaded.config
    model = json.dumps([config.model.to_dict(), config.precision.to_dict()], sort_keys=True, default=str)
    return {
        "weights": indexing.weights_digest(loaded.variables),
        "model": hashlib.sha256(model.encode()).hexdigest()[:16],
        "frames": config.data.frames,
        "fps": float(config.data.fps),
        "sampling": config.data.eval_sampling,
        "image_size": model_config(config).clip.image_size,
        "preprocessing": PREPROCESSING,
    }


def embed_videos(loaded: Loaded, paths: Sequence[Path]) -> Iterator[tuple[Path, indexing.Vectors | str]]:
    """Each path with its embeddings, or with the reason why it cannot be decoded.

    The next clips are decoded while the device works; two batches are held at most.
    """
    size, segments = _rows_a_call(loaded), model_config(loaded.config).segments
    threads = max(1, loaded.config.pipeline.threads)
    clips = map_ahead(lambda p: _clip(loaded, p), paths, threads, ahead=max(size, threads))
    good: list[tuple[Path, Clip, float]] = []
    for number, (path, got) in enumerate(zip(paths, clips), 1):
        if isinstance(got, BadMedia):
            yield path, got.reason
        else:
            good.append((path, *got))
        if len(good) < size and (number < len(paths) or not good):
            continue
        rows = [good[i % len(good)][1] for i in range(size)]  # full batches: one shape is compiled
        batch = {"frames": np.stack([c.frames for c in rows]), "mask": np.stack([c.mask for c in rows])}
        out = {k: np.asarray(v) for k, v in loaded.predict(loaded.variables, {"video": batch}).items()}
        for i, (done, clip, duration) in enumerate(good):
            spans = indexing.segment_spans(clip.times, clip.mask, duration, segments)
            video, parts = (out[name][i].astype(np.float32) for name in ("video", "segments"))
            yield done, indexing.Vectors(video, parts, out["segment_mask"][i], spans)
        good = []


def _rows_a_call(loaded: Loaded) -> int:
    """Videos a call of `predict`: always the same number, so that embeddings do not depend on what else is embedded.

    On CPUs one a device, where a larger batch is no faster and a single new video would cost that of a whole one.
    """
    return _shards(loaded) if jax.default_backend() == "cpu" else loaded.config.data.eval_batch_size


def _shards(loaded: Loaded) -> int:
    return loaded.mesh.shape["data"] * loaded.mesh.shape["fsdp"]


def _clip(loaded: Loaded, path: Path) -> tuple[Clip, float] | BadMedia:
    """The frames that the model sees of a file, as in evaluation, and the seconds that it lasts."""
    d = loaded.config.data
    size = model_config(loaded.config).clip.image_size
    try:
        source = open_source(path, d.fps or None)
        clip = load_clip(source, num_frames=d.frames, image_size=size, sampling=d.eval_sampling, fps=d.fps or None)
    except BadMedia as error:
        return error
    return clip, source.duration


def _vectors_of(loaded: Loaded, path: Path, index: indexing.SearchIndex | None) -> indexing.Vectors:
    """Of a `--like` video: from the index where it holds the file, else embedded. Raises BadMedia."""
    if index is not None and (name := _name_in(index, path)) in index.vectors:
        return index.vectors[name]
    ((_, vectors),) = embed_videos(loaded, [path])
    if isinstance(vectors, str):
        raise BadMedia(str(path), vectors)
    return vectors


def _name_in(index: indexing.SearchIndex, path: Path) -> str | None:
    """What the index calls the file; a link is called as it is named, or as the file that it leads to."""
    folder = Path(index.folder)
    real = lambda p: Path(os.path.realpath(p))  # noqa: E731 - a link to itself is left as it is
    for file in (path.absolute(), real(path.parent) / path.name, real(path)):
        if file.is_relative_to(folder) and (name := file.relative_to(folder).as_posix()) in index.files:
            return name
    return None


def _seconds(span: tuple[float, float]) -> list[float]:
    return [round(t, 3) for t in span]


def _sheet(folder: Path, rankings: Sequence[tuple[str, list[indexing.Found]]]) -> Image.Image:
    """The picture sheet; only here are videos of an up-to-date index decoded, a few frames of each hit."""
    names = {f.name for _, row in rankings for f in row}
    look = {"num_frames": SHEET_FRAMES, "image_size": 128, "sampling": "uniform"}
    frames = {name: load_clip(folder / name, **look).frames for name in names}
    rows = [[Hit(frames[f.name], f.score, False, Path(f.name).name) for f in row] for _, row in rankings]
    return retrieval_sheet([printable(query) for query, _ in rankings], rows, frames_per_clip=SHEET_FRAMES)


def embed_texts(loaded: Loaded, tokenizer: Any, queries: Sequence[str]) -> np.ndarray:
    """Unit embeddings `[n, E]` of free text, as many rows a call as there are texts (and `eval_batch_size` at most)."""
    d, shards = loaded.config.data, _shards(loaded)
    size = min(d.eval_batch_size, -(-len(queries) // shards) * shards)
    rows = np.stack([texts.pack(tokenizer, q, d.max_words) for q in queries])
    parts = []
    for start in range(0, len(rows), size):
        ids = rows[np.arange(start, start + size) % len(rows)]  # the last block is filled up
        parts.append(np.asarray(loaded.predict(loaded.variables, {"text": {"ids": ids}})["text"]))
    return np.concatenate(parts)[: len(queries)]


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: top-5 of a few unseen queries, and which tokens the clustering kept."""
    split = loaded.config.eval.split
    stored = loaded.workdir / "eval" / f"{split}.npz"
    videos = data.splits[split]["video"]
    by_id = {videos.id_of(r): r for r in videos.source}
    arrays = np.load(stored)
    picked = np.linspace(0, len(arrays["text"]) - 1, min(SHEET_QUERIES, len(arrays["text"])), dtype=int)
    scores = arrays["scores"][picked] if "scores" in arrays else arrays["text"][picked] @ arrays["video"].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :SHEET_TOP]
    frames = lambda name: videos.make(by_id[str(name)], np.random.default_rng(0))["frames"]  # noqa: E731
    names, wanted = arrays["video_id"].astype(str), arrays["text_id"].astype(str)
    rows = [
        [Hit(frames(names[j]), scores[i, j], names[j] == wanted[q], names[j]) for j in order[i]]
        for i, q in enumerate(picked)
    ]
    ranks = [int((scores[i] > scores[i][names == wanted[q]].max()).sum()) for i, q in enumerate(picked)]
    captions = [str(arrays["caption"][q]) for q in picked]
    yield (
        "Retrieval on unseen clips and captions",
        retrieval_sheet(captions, rows, ranks),
        f"Queries spread evenly over split {split!r}, not chosen; five best clips of {len(arrays['video'])} each. "
        "The framed clip is the one the caption belongs to.",
    )
    cfg = model_config(loaded.config)
    if not cfg.plan:
        return
    shown: list[VideoText] = [by_id[str(arrays["text_id"][q])] for q in picked[:3]]
    clips = [videos.make(r, np.random.default_rng(0)) for r in shown]
    size = loaded.config.data.eval_batch_size
    frames_, mask = (np.stack([clips[i % len(clips)][k] for i in range(size)]) for k in ("frames", "mask"))
    out = loaded.predict(loaded.variables, {"video": {"frames": frames_, "mask": mask}})
    if f"medoids_block{cfg.plan[0].after}" not in out:
        return
    grid, segments = cfg.clip.grid, cfg.plan[-1].frames_after
    left = kept_in_segments(out, cfg.plan, grid)
    points = " and ".join(str(point.after) for point in cfg.plan)
    for i, record in enumerate(shown):
        yield (
            f"Tokens kept: {record.caption}",
            kept_tokens(clips[i]["frames"], left[i], grid, segments),
            f"After block {points}, {cfg.plan[-1].tokens_after} of {cfg.frames // segments * grid**2} patch tokens of "
            f"each of {segments} segments are left; the darkened ones were dropped.",
        )


def kept_in_segments(facts: dict[str, Any], plan: Sequence[Reduction], grid: int) -> np.ndarray:
    """int `[B, S, K]` for `jaxvl.viz.tokens`: the tokens left after the whole plan as `frame·G² + y·G + x`, the frame
    counted inside the last reduction's segment. `facts` as `video_hooks` fills them."""
    frame, y, x = (np.asarray(a) for a in token_positions(facts, plan, grid))
    per_segment = plan[0].frames_before // plan[-1].frames_after
    return (frame % per_segment * grid + y) * grid + x


def results_tables(metrics: dict[str, float]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """Text to video and video to text, with chance beside them."""
    n = int(metrics["gallery"])
    rows: list[list[Any]] = [
        [label, *(round(metrics[f"{side}/{m}"], 2) for m in RECALLS)]
        for side, label in (("t2v", "text to video"), ("v2t", "video to text"))
    ]
    rows.append(["chance", *(round(retrieval.chance(n)[m], 2) for m in RECALLS)])
    note = retrieval.tie_warning(metrics) or ""
    title = f"Retrieval among {n} videos with {int(metrics['captions'])} captions"
    return [(title, ["", *RECALLS], rows, note)]
