"""Search a folder of your own videos by text with a trained CenterCLIP."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.session import Loaded
from jaxvl.data import text as texts
from jaxvl.data.readers.common import VIDEO_ENDINGS, VideoText
from jaxvl.data.video import load_clip
from jaxvl.methods.centerclip.data import build_tokenizer
from jaxvl.metrics import retrieval
from jaxvl.viz.retrieval import Hit, retrieval_sheet
from jaxvl.viz.tokens import kept_tokens

SHEET_QUERIES, SHEET_TOP = 6, 5
RECALLS = ("R@1", "R@5", "R@10", "MdR", "MnR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument("--videos", required=True, metavar="DIR", help="folder of videos, searched with its subfolders")
    parser.add_argument("--text", required=True, action="append", metavar="QUERY", help="may be given several times")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="results a query")
    parser.add_argument("--out", metavar="PNG", help="the picture sheet; default WORKDIR/search.png")


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Embeds every video of the folder, ranks them for each query, prints the ranking and writes the sheet."""
    folder = Path(args.videos)
    if not folder.is_dir():
        raise InputError(f"--videos {folder}: no such folder")
    if args.top < 1:
        raise InputError(f"--top {args.top}: needs at least 1")
    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS)
    if not paths:
        raise InputError(f"--videos {folder}: holds no video file ({', '.join(VIDEO_ENDINGS[:5])}, ...)")
    tokenizer = build_tokenizer(loaded.config, loaded.workdir, [])
    unknown = texts.unknown_words(tokenizer, args.text)
    if unknown:
        say(f"words the model has never seen, read as unknown: {', '.join(unknown)}")
    found, skipped = embed_videos(loaded, paths, say)
    if not found["paths"]:
        raise InputError(f"--videos {folder}: none of the {len(paths)} files could be decoded; first: {skipped[0]}")
    queries = embed_texts(loaded, tokenizer, args.text)
    scores = queries @ found["embeddings"].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, : args.top]
    results = [
        {
            "query": q,
            "results": [{"path": str(found["paths"][j]), "score": round(float(scores[i, j]), 6)} for j in order[i]],
        }
        for i, q in enumerate(args.text)
    ]
    out = Path(args.out) if args.out else loaded.workdir / "search.png"
    hit = lambda i, j: Hit(found["frames"][j], scores[i, j], False, found["paths"][j].name)  # noqa: E731
    sheet = retrieval_sheet(args.text, [[hit(i, j) for j in row] for i, row in enumerate(order)])
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    if as_json:
        print(json.dumps({"queries": results, "videos": len(found["paths"]), "skipped": skipped, "sheet": str(out)}))
        return 0
    for row in results:
        print(row["query"])
        for rank, hit in enumerate(row["results"], 1):
            print(f"  {rank}. {hit['score']:+.4f}  {hit['path']}")
    print(f"sheet: {out}")
    return 0


def embed_videos(loaded: Loaded, paths: Sequence[Path], say) -> tuple[dict[str, Any], list[str]]:
    """Unit embeddings `[n, E]` and shown frames of the videos that decode; a line for each that does not."""
    d, size = loaded.config.data, loaded.config.data.eval_batch_size
    clips, kept, skipped = [], [], []
    for path in paths:
        try:
            clips.append(
                load_clip(
                    path,
                    num_frames=d.frames,
                    image_size=loaded.config.model.image_size,
                    sampling="uniform",
                    rng=None,
                    fps=d.fps or None,
                )
            )
        except BadMedia as error:
            skipped.append(str(error))
            say(f"skipped {error}")
            continue
        kept.append(path)
    vectors = [
        loaded.predict(loaded.variables, {"video": {"frames": frames, "mask": mask}})["video"][:n]
        for frames, mask, n in _padded(clips, size)
    ]
    embeddings = np.concatenate([np.asarray(v) for v in vectors]) if vectors else np.zeros((0, 0))
    return {"paths": kept, "embeddings": embeddings, "frames": [c.frames for c in clips]}, skipped


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


def _padded(clips: Sequence[Any], size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Full batches; the last one is filled up with its first clip, so that one shape is compiled."""
    for start in range(0, len(clips), size):
        part = list(clips[start : start + size])
        n = len(part)
        part += [part[0]] * (size - n)
        yield np.stack([c.frames for c in part]), np.stack([c.mask for c in part]), n


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
    plan = first_reduction(loaded)
    if plan is None:
        return
    point, grid = plan
    shown: list[VideoText] = [by_id[str(arrays["text_id"][q])] for q in picked[:3]]
    clips = [videos.make(r, np.random.default_rng(0)) for r in shown]
    size = loaded.config.data.eval_batch_size
    frames_, mask = (np.stack([clips[i % len(clips)][k] for i in range(size)]) for k in ("frames", "mask"))
    out = loaded.predict(loaded.variables, {"video": {"frames": frames_, "mask": mask}})
    name = f"medoids_block{point.after}"
    if name not in out:
        return
    medoids = np.asarray(out[name])
    for i, record in enumerate(shown):
        yield (
            f"Tokens kept: {record.caption}",
            kept_tokens(clips[i]["frames"], medoids[i], grid, point.frames_after),
            f"After block {point.after}, {point.tokens_after} of "
            f"{point.frames_before // point.frames_after * point.tokens_before} patch tokens of each of "
            f"{point.frames_after} segments go on; the darkened ones are dropped.",
        )


def first_reduction(loaded: Loaded):
    """`(first reduction point, patch grid)` of the model, or None where nothing is reduced."""
    from jaxvl.methods.centerclip.method import model_config

    cfg = model_config(loaded.config)
    return (cfg.plan[0], cfg.clip.grid) if cfg.plan else None


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
