"""Search a folder of your own videos by text or by video, or rank captions for a video, with a trained CenterCLIP."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.session import Loaded
from jaxvl.data import text as texts
from jaxvl.data.readers.common import VideoText, read_ids
from jaxvl.data.video import Clip, load_clip, open_source
from jaxvl.methods.centerclip import index as indexing
from jaxvl.methods.centerclip.data import build_tokenizer
from jaxvl.methods.centerclip.method import model_config
from jaxvl.methods.centerclip.reduce import Reduction, token_positions
from jaxvl.metrics import retrieval
from jaxvl.viz.retrieval import Hit, retrieval_sheet
from jaxvl.viz.tokens import kept_tokens

SHEET_QUERIES, SHEET_TOP, SHEET_FRAMES = 6, 5, 3
RECALLS = ("R@1", "R@5", "R@10", "MdR", "MnR")
PREPROCESSING = 1  # raised whenever the pixels that the model gets from a file change


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument("--videos", metavar="DIR", help="folder of videos to search, with its subfolders")
    parser.add_argument("--text", action="append", default=[], metavar="QUERY", help="may be given several times")
    parser.add_argument("--like", action="append", default=[], metavar="VIDEO", help="search for similar videos")
    parser.add_argument("--captions", metavar="FILE", help="rank these captions, one a line, for each --like video")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="results a query")
    parser.add_argument("--index", metavar="PATH", help="embeddings of DIR, kept; default: a folder in WORKDIR/index")
    parser.add_argument("--rebuild", action="store_true", help="make the index again, from every video")
    parser.add_argument("--out", metavar="PNG", help="the picture sheet; default WORKDIR/search.png")
    parser.add_argument("--no-sheet", action="store_true", help="no picture sheet: nothing is decoded for a search")


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Brings the index of the folder up to date, ranks it for each query, prints the ranking, writes the sheet."""
    _check(args)
    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    tokenizer = build_tokenizer(loaded.config, loaded.workdir, [])
    captions = read_ids(args.captions, "the captions to rank") if args.captions else []
    unknown = texts.unknown_words(tokenizer, [*args.text, *captions])
    if unknown:
        say(f"words the model has never seen, read as unknown: {', '.join(unknown)}")
    report: dict[str, Any] = {}
    index = None
    if args.videos:
        index, report = _open_index(loaded, args, say)
    like = [_vectors_of(loaded, Path(name), index) for name in args.like]
    found: list[tuple[str, list[indexing.Found]]] = []  # rankings of videos
    ranked: list[dict[str, Any]] = []  # rankings of captions
    if args.text:
        gallery = index.stack()
        found += zip(args.text, gallery.search(embed_texts(loaded, tokenizer, args.text), args.top))
    if captions:
        vectors = embed_texts(loaded, tokenizer, captions)
        ranked = [_rank(name, v, captions, vectors, args.top) for name, v in zip(args.like, like)]
    elif like:
        hits = index.stack().search(np.stack([v.video for v in like]), args.top + 1)
        found += [(name, _others(name, index, row)[: args.top]) for name, row in zip(args.like, hits)]
    folder = Path(args.videos or ".")
    results = [
        {
            "query": query,
            "results": [
                {"path": str(folder / f.name), "score": round(f.score, 6), "best_segment": _seconds(f.segment)}
                for f in row
            ],
        }
        for query, row in found
    ]
    shown = [(query, row) for query, row in found if row]
    sheet = (
        None if args.no_sheet or not shown else _sheet(folder, shown, Path(args.out or loaded.workdir / "search.png"))
    )
    if as_json:
        print(json.dumps({"queries": results, "captions": ranked, **report, "sheet": sheet and str(sheet)}))
        return 0
    for row in [*results, *ranked]:
        print(row["query"])
        for rank, hit in enumerate(row["results"], 1):
            start, end = hit["best_segment"]
            print(f"  {rank}. {hit['score']:+.4f}  {hit.get('path') or hit['caption']}  [{start:.1f}-{end:.1f} s]")
    if sheet:
        print(f"sheet: {sheet}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.text and not args.like:
        raise InputError("--text or --like: say what to search for")
    if args.captions and not args.like:
        raise InputError("--captions: are ranked for a video; name it with --like")
    if not args.videos and (args.text or not args.captions):
        raise InputError("--videos: name the folder to search")
    if args.videos and not Path(args.videos).is_dir():
        raise InputError(f"--videos {args.videos}: no such folder")
    if args.top < 1:
        raise InputError(f"--top {args.top}: needs at least 1")


def _open_index(loaded: Loaded, args: argparse.Namespace, say) -> tuple[indexing.SearchIndex, dict[str, Any]]:
    """The index of `--videos`, up to date, and what JSON says about it."""
    folder = Path(args.videos)
    key = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = Path(args.index) if args.index else loaded.workdir / "index" / key
    embed = lambda paths: embed_videos(loaded, paths)  # noqa: E731
    index, counts = indexing.refresh(path, folder, provenance(loaded), embed, rebuild=args.rebuild, say=say)
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
    """Each path with its embeddings, or with the reason why it cannot be decoded; one batch is held at a time."""
    size, segments = loaded.config.data.eval_batch_size, model_config(loaded.config).segments
    with futures.ThreadPoolExecutor(max(1, loaded.config.pipeline.threads)) as pool:
        for start in range(0, len(paths), size):
            part = paths[start : start + size]
            good: list[tuple[Path, Clip, float]] = []
            for path, got in zip(part, pool.map(lambda p: _clip(loaded, p), part)):
                if isinstance(got, BadMedia):
                    yield path, got.reason
                else:
                    good.append((path, *got))
            if not good:
                continue
            rows = [good[i % len(good)][1] for i in range(size)]  # full batches: one shape is compiled
            batch = {"frames": np.stack([c.frames for c in rows]), "mask": np.stack([c.mask for c in rows])}
            out = {k: np.asarray(v) for k, v in loaded.predict(loaded.variables, {"video": batch}).items()}
            for i, (path, clip, duration) in enumerate(good):
                spans = indexing.segment_spans(clip.times, clip.mask, duration, segments)
                video, parts = (out[name][i].astype(np.float32) for name in ("video", "segments"))
                yield path, indexing.Vectors(video, parts, out["segment_mask"][i], spans)


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
    """What the index calls the file, or would."""
    folder, file = Path(index.folder), path.resolve()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else None


def _others(like: str, index: indexing.SearchIndex, row: Sequence[indexing.Found]) -> list[indexing.Found]:
    """Without the video itself."""
    own = _name_in(index, Path(like))
    return [found for found in row if found.name != own]


def _rank(name: str, video: indexing.Vectors, captions: Sequence[str], vectors: np.ndarray, top: int) -> dict[str, Any]:
    """Captions for one video, best first."""
    gallery = indexing.Gallery((name,), *(a[None] for a in dataclasses.astuple(video)))
    scores = vectors @ video.video
    return {
        "query": name,
        "results": [
            {
                "caption": captions[i],
                "score": round(float(scores[i]), 6),
                "best_segment": _seconds(gallery.best_segment(vectors[i], 0)),
            }
            for i in np.argsort(-scores, kind="stable")[:top]
        ],
    }


def _seconds(span: tuple[float, float]) -> list[float]:
    return [round(t, 3) for t in span]


def _sheet(folder: Path, rankings: Sequence[tuple[str, list[indexing.Found]]], out: Path) -> Path:
    """Writes the picture sheet; only here are videos of an up-to-date index decoded, a few frames of each hit."""
    names = {f.name for _, row in rankings for f in row}
    look = {"num_frames": SHEET_FRAMES, "image_size": 128, "sampling": "uniform"}
    frames = {name: load_clip(folder / name, **look).frames for name in names}
    rows = [[Hit(frames[f.name], f.score, False, Path(f.name).name) for f in row] for _, row in rankings]
    out.parent.mkdir(parents=True, exist_ok=True)
    retrieval_sheet([query for query, _ in rankings], rows, frames_per_clip=SHEET_FRAMES).save(out)
    return out


def embed_texts(loaded: Loaded, tokenizer: Any, queries: Sequence[str]) -> np.ndarray:
    """Unit embeddings `[n, E]` of free text."""
    d = loaded.config.data
    rows = np.zeros((-(-len(queries) // d.eval_batch_size) * d.eval_batch_size, d.max_words), np.int32)
    for i, q in enumerate(queries):
        rows[i] = texts.pack(tokenizer, q, d.max_words)
    rows[len(queries) :] = rows[0]
    parts = [
        np.asarray(loaded.predict(loaded.variables, {"text": {"ids": rows[i : i + d.eval_batch_size]}})["text"])
        for i in range(0, len(rows), d.eval_batch_size)
    ]
    return np.concatenate(parts)[: len(queries)]


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: top-5 of a few unseen queries, and which tokens the clustering kept."""
    split = loaded.config.eval.split
    stored = loaded.workdir / "eval" / f"{split}.npz"
    videos = data.splits[split]["video"]
    by_id = {videos.id_of(r): r for r in videos.source}
    arrays = np.load(stored)
    picked = np.linspace(0, len(arrays["text"]) - 1, min(SHEET_QUERIES, len(arrays["text"])), dtype=int)
    scores = arrays["text"][picked] @ arrays["video"].T
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
