"""Search a folder of your own videos by text or by video, or rank captions for a video, with a trained CenterCLIP."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.files import printable
from jaxvl.core.session import Loaded
from jaxvl.data.readers.common import VideoText
from jaxvl.methods.centerclip.method import model_config
from jaxvl.methods.centerclip.reduce import Reduction, token_positions
from jaxvl.methods.centerclip.verbs import CenterCLIP
from jaxvl.metrics import retrieval
from jaxvl.search import command
from jaxvl.search.command import SHEET_TOP
from jaxvl.viz.retrieval import Hit, retrieval_sheet
from jaxvl.viz.tokens import kept_tokens

SHEET_QUERIES = 6
RECALLS = ("R@1", "R@5", "R@10", "MdR", "MnR")


Model = CenterCLIP
add_arguments = command.add_arguments


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Brings the index of the folder up to date, ranks it for each query, prints the ranking, writes the sheet."""
    model = Model(loaded, lambda line: print(printable(line), file=sys.stderr))
    model.check_separate("search")
    return command.run(model, args, as_json)


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
