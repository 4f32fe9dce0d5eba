"""`jaxvl predict` of models that embed texts and videos apart: search a folder by text or by video, rank captions."""

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
from typing import Any, Protocol, TextIO

import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, picture, place, whole, word
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import keep, printable
from jaxvl.data.readers.common import read_ids
from jaxvl.data.video import load_clip
from jaxvl.search import index as indexing
from jaxvl.viz.retrieval import Hit, retrieval_sheet

SHEET_TOP, SHEET_FRAMES = 5, 3
VIDEO_QUERY = "video:"


class Searchable(Protocol):
    """What a model needs to be searched with. Vectors are unit `[n, E]`; width is E."""

    workdir: Path
    say: Callable[[str], None]
    width: int

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Of texts."""

    def encode_segments(self, videos: Sequence[Any]) -> list[indexing.Vectors]:
        """Of videos and their segments. Raises BadMedia."""

    def embed(self, paths: Sequence[Path]) -> Iterator[tuple[Path, indexing.Vectors | BadMedia]]:
        """The same for many files, in any order, with the error where one cannot be decoded."""

    def provenance(self) -> dict[str, Any]:
        """What the vectors depend on beside the file: an index of another one is not used."""

    def warm_up(self) -> None:
        """Compiles what answers a text."""


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


def run(model: Searchable, args: argparse.Namespace, as_json: bool) -> int:
    """Brings the index of the folder up to date, ranks it for each query, prints the ranking, writes the sheet."""
    _check(args)
    captions = read_ids(args.captions, "the captions to rank") if args.captions else []
    report: dict[str, Any] = {}
    index = None
    if args.videos:
        index, report = _open_index(model, args)
    search = Search(model, index, captions, args.top)
    found = search.by_text(args.text) if args.text else []
    ranked = [search.captions_of(name) for name in args.like] if captions else []
    found += [] if captions else [search.by_video(name) for name in args.like]
    folder = Path(args.videos or ".")
    shown = [(query, row) for query, row in found if row]
    sheet = None
    if shown and not args.no_sheet:
        image, out = _sheet(folder, shown), Path(args.out or model.workdir / "search.png")
        kind = PICTURES[out.suffix.lower()]
        sheet = keep(out, lambda unfinished: image.save(unfinished, format=kind), bool(args.out), model.say)
    rows = [_row(folder, *one) for one in found]
    if as_json and found + ranked:
        print(json.dumps({"queries": rows, "captions": ranked, **report, "sheet": sheet and str(sheet)}), flush=True)
    elif not as_json:
        lines = [line for row in [*rows, *ranked] for line in _lines(row)]
        for line in [*lines, f"sheet: {sheet}"] if sheet else lines:
            print(line, flush=True)
    if args.ask:
        _answer(search, folder, _lines_of(sys.stdin), as_json)
    return 0


class Search:
    """What answers queries once an index is open: embeddings of the videos, and of captions to rank for a video."""

    def __init__(
        self,
        model: Searchable,
        index: indexing.SearchIndex | None,
        captions: Sequence[str],
        top: int,
    ):
        self.model, self.index, self.top = model, index, top
        self.gallery = None if index is None else index.stack()
        self.captions, self.vectors = captions, model.encode_text(captions) if captions else None

    def by_text(self, queries: Sequence[str]) -> list[tuple[str, list[indexing.Found]]]:
        """Each query with the videos nearest to it."""
        return list(zip(queries, self.gallery.search(self.model.encode_text(queries), self.top)))

    def by_video(self, name: str) -> tuple[str, list[indexing.Found]]:
        """A video with those nearest to it, itself left out. Raises BadMedia."""
        (row,) = self.gallery.search(_vectors_of(self.model, Path(name), self.index).video[None], self.top + 1)
        own = _name_in(self.index, Path(name))
        return name, [found for found in row if found.name != own][: self.top]

    def captions_of(self, name: str) -> dict[str, Any]:
        """The captions nearest to a video, best first. Raises BadMedia."""
        video = _vectors_of(self.model, Path(name), self.index)
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


def _answer(search: Search, folder: Path, lines: Iterable[str], as_json: bool) -> None:
    """Answers each line as it comes, with the milliseconds that it took; what is wrong with one is said and passed."""
    search.model.warm_up()
    search.model.say(f"ready: a text a line, or {VIDEO_QUERY}PATH")
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


def _open_index(model: Searchable, args: argparse.Namespace) -> tuple[indexing.SearchIndex, dict[str, Any]]:
    """The index of `--videos`, up to date, and what JSON says about it."""
    folder = Path(args.videos)
    key = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = Path(args.index) if args.index else model.workdir / "index" / key
    index, counts = indexing.refresh(
        path, folder, model.provenance(), _reasons(model),
        rebuild=args.rebuild, say=model.say, required=bool(args.index),
    )  # fmt: skip
    if any(len(vectors.video) != model.width for vectors in index.vectors.values()):
        raise InputError(
            f"{path}: damaged search index (the model has vectors of {model.width} numbers); --rebuild makes it again"
        )
    model.say(f"index {path}: {counts.line()}")
    skipped = [f"{folder / name}: {reason}" for name, reason in counts.bad]
    for line in skipped:
        model.say(f"skipped {line}")
    if not index.vectors:
        raise InputError(f"--videos {folder}: none of the {len(skipped)} files could be decoded; first: {skipped[0]}")
    about = {"path": str(path), "embedded": counts.embedded, "kept": counts.kept, "dropped": counts.dropped}
    return index, {"videos": len(index.vectors), "skipped": skipped, "index": about}


def _reasons(model: Searchable) -> indexing.Embed:
    """The model's `embed`, with the reason in place of an error."""
    return lambda paths: ((p, v.reason if isinstance(v, BadMedia) else v) for p, v in model.embed(paths))


def _vectors_of(model: Searchable, path: Path, index: indexing.SearchIndex | None) -> indexing.Vectors:
    """Of a `--like` video: from the index where it holds the file, else embedded. Raises BadMedia."""
    if index is not None and (name := _name_in(index, path)) in index.vectors:
        return index.vectors[name]
    return model.encode_segments([path])[0]


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
