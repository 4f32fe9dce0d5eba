"""Follow one object of a video, or all of them, with a trained UTT; write an evaluation's tracks for a benchmark."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.arguments import place, positive, real, word
from jaxvl.core import model
from jaxvl.core.errors import InputError
from jaxvl.core.files import keep, printable, write_text
from jaxvl.core.session import Loaded
from jaxvl.data import inputs
from jaxvl.data.readers.tracking.mot import mot_text
from jaxvl.data.video import open_source
from jaxvl.methods.utt.association import TRACKERS
from jaxvl.methods.utt.following import Tracked, ask, follow_video, visit_source
from jaxvl.methods.utt.results import read_tracks, results_tables, write_submission
from jaxvl.viz import images
from jaxvl.viz.tracks import Movie, draw_boxes, presence_sheet

__all__ = ["Model", "add_arguments", "pictures", "results_tables", "run"]

STRIP = 6
"""Frames above a timeline."""
REPORTED = 48
"""Frames of a sequence that are followed for the report."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument("--video", type=place, metavar="FILE", help="a video file, or a folder of frames")
    parser.add_argument("--box", type=four, metavar="X,Y,W,H", help="follow what is there in the first frame")
    parser.add_argument("--all", action="store_true", help="with --box: everything else is followed, too")
    text = "boxes of your own detector, MOT text: frame,-1,left,top,width,height,score, from 1"
    parser.add_argument("--detections", type=place, metavar="FILE", help=text)
    parser.add_argument("--start", type=real(0), metavar="S", help="only the part from this second on")
    parser.add_argument("--end", type=real(0), metavar="S", help="up to this second")
    parser.add_argument("--fps", type=positive, metavar="RATE", help="rate at which a folder of frames was extracted")
    parser.add_argument("--tracker", type=word, metavar="NAME", help=f"how all are linked: {', '.join(TRACKERS)}")
    parser.add_argument("--least-score", type=real(0, 1), metavar="P", help="of a detection; default: the config's")
    text = "folder of tracks.txt, tracks.json, timeline.png and tracks.mp4; default WORKDIR/tracks/NAME"
    parser.add_argument("--out", type=place, metavar="DIR", help=text)
    parser.add_argument("--no-video", action="store_true", help="no annotated video")
    text = "write WORKDIR/eval/SPLIT.npz in the form that the benchmark takes, below this folder"
    parser.add_argument("--submit", type=place, metavar="DIR", help=text)
    parser.add_argument("--split", type=word, default="test", metavar="SPLIT", help="of --submit")


def four(text: str) -> tuple[float, ...]:
    """`x,y,w,h` on the command line."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4 or not all(math.isfinite(v) for v in numbers):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: needs four numbers x,y,w,h (pixels from the top left corner)")
    return numbers


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Follows, writes the files, prints what was found."""
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    if args.submit:
        if args.video or args.box or args.detections or args.all:
            raise InputError("--submit: writes what an evaluation kept; leave --video, --box, --all, --detections out")
        tracks = read_tracks(loaded.workdir / "eval" / f"{args.split}.npz")
        written = write_submission(tracks, loaded.config.data, Path(args.submit))
        print(json.dumps({"files": [str(p) for p in written]}) if as_json else f"{len(written)} files in {args.submit}")
        return 0
    if not args.video:
        raise InputError("--video: name a video file or a folder of frames")
    found = follow_video(
        loaded, args.video, args.box, args.detections, fps=args.fps, start_s=args.start, end_s=args.end,
        tracker=args.tracker or "", least_score=args.least_score, everything=args.all,
    )  # fmt: skip
    if found.left_out:
        say(f"{found.left_out:,} detections were not used: no extent, outside of the video, or too many in a frame")
    name = Path(args.video).name if Path(args.video).is_dir() else Path(args.video).stem
    folder = Path(args.out) if args.out else loaded.workdir / "tracks" / (name or "video")
    about = described(found, str(args.video), None if args.all else args.box)
    written = save_all(found, about, args.video, args.fps, folder, not args.no_video, bool(args.out), say)
    if as_json:
        print(json.dumps({**about, "files": {k: str(p) for k, p in written.items()}}))
        return 0
    print(f"{len(found.shown)} frames, {found.rate:.1f} a second")
    if not found.identities:
        print("nothing was found")
    for row in about["objects"][:20]:
        spans = ", ".join(f"{a:.1f}-{b:.1f} s" for a, b in row["spans"][:4])
        more = " ..." if len(row["spans"]) > 4 else ""
        print(f"  {row['id']}: {spans}{more}")
    if len(about["objects"]) > 20:
        print(f"  and {len(about['objects']) - 20} more")
    for kind, path in written.items():
        print(f"{kind}: {path}")
    return 0


def described(found: Tracked, video: str, box: Sequence[float] | None) -> dict[str, Any]:
    """The JSON of a tracked video; boxes are left, top, width, height from 0, frames count from 0."""
    objects = []
    for identity in found.identities:
        rows = found.of(identity)
        objects.append(
            {
                "id": identity,
                "spans": [[round(a, 3), round(b, 3)] for a, b in found.spans(identity)],
                "frames": found.frame[rows].tolist(),
                "boxes": np.round(found.boxes[rows].astype(float), 2).tolist(),
                "scores": np.round(found.scores[rows].astype(float), 4).tolist(),
            }
        )
    return {
        "video": video,
        "task": "all" if box is None else "one",
        "size": list(found.size),
        "frames": len(found.shown),
        "duration": round(found.duration, 3) if found.timed else None,
        "frames_per_second": round(found.rate, 2),
        "objects": objects,
    }


def save_all(
    found: Tracked,
    about: Mapping[str, Any],
    video: Any,
    fps: float | None,
    folder: Path,
    movie: bool,
    asked: bool,
    say: Callable[[str], None],
) -> dict[str, Path]:
    """Writes MOT text, JSON, timeline and, with `movie`, the annotated video: kind -> path of what could be written."""
    source = open_source(video, fps)
    writers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "text": ("tracks.txt", lambda path: write_text(path, mot_text(found.mot_rows()))),
        "json": ("tracks.json", lambda path: write_text(path, json.dumps(about) + "\n")),
        "timeline": ("timeline.png", lambda path: timeline(found, source, Path(str(video)).name).save(path, "PNG")),
    }
    if movie:
        writers["video"] = ("tracks.mp4", lambda path: write_movie(found, source, path))
    written = {}
    for kind, (name, write) in writers.items():
        if path := keep(folder / name, write, asked, say):
            written[kind] = path
    return written


def drawn(found: Tracked, number: int, picture: np.ndarray) -> Image.Image:
    """A frame with its boxes."""
    rows = found.at(number)
    labels = [""] * len(rows) if len(found.identities) == 1 else [str(i) for i in found.ids[rows]]
    return draw_boxes(picture, found.boxes[rows], found.ids[rows], labels)


def write_movie(found: Tracked, source: Any, path: Path) -> None:
    """The frames that were looked at with their boxes, at their times. Frames of unknown rate come 25 a second."""
    share = 1.0 if found.timed else 1 / 25
    begin = float(found.times[found.shown[0]])
    rate = (len(found.times) / found.duration if found.duration > 0 else 25.0) / share
    with Movie(path, found.size, rate) as movie:
        add = lambda i, picture: movie.add(drawn(found, i, picture), (float(found.times[i]) - begin) * share)  # noqa: E731
        visit_source(source, found.shown, add)


def timeline(found: Tracked, source: Any, name: str) -> Image.Image:
    """When each object was there, below a few frames."""
    picked = found.shown[np.unique(np.linspace(0, len(found.shown) - 1, min(STRIP, len(found.shown))).astype(int))]
    strip: list[tuple[float, Image.Image]] = []
    visit_source(source, picked, lambda i, picture: strip.append((float(found.times[i]), drawn(found, i, picture))))
    count = len(found.identities)
    title = f"{name}: {count} object{'' if count == 1 else 's'} in {len(found.shown)} frames"
    rows = [(identity, found.spans(identity)) for identity in found.identities]
    return presence_sheet(rows, found.duration, title, strip)


class Model(model.Model):
    """A trained UTT with the verb `track`."""

    name = "UTT"

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.say = loaded, say
        self.source = f"{loaded.workdir}, step {loaded.step}"

    def track(
        self,
        video: Any,
        box: Sequence[float] | None = None,
        detections: Any = None,
        *,
        fps: float | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        tracker: str = "",
        least_score: float | None = None,
        everything: bool = False,
    ) -> Tracked:
        """Boxes of the object that is at `box` (left, top, width, height) in the first frame, or, without one, of all;
        everything: of that object, identity 1, and of all others.

        video: a path, or uint8 frames `[T, H, W, 3]` at `fps`. detections: of a detector of your own, a MOT text file,
        in place of the model's. tracker: 'transformer', 'released' or 'byte', by default the config's. Raises BadMedia.
        """
        given = inputs.video(video, 0, fps)
        return follow_video(
            self.loaded, given, box, detections, fps=fps, start_s=start_s, end_s=end_s, tracker=tracker,
            least_score=least_score, everything=everything,
        )  # fmt: skip


def pictures(loaded: Loaded, data: Any) -> Iterator[tuple[str, Image.Image, str]]:
    """For the report: the beginning of the first test sequence of each task, with what was followed in it."""
    titles = {"sot": "One object, followed from its first box", "mot": "All objects, found and linked"}
    for stream, sequences in data.splits.get(loaded.config.eval.split, {}).items():
        if not len(sequences.source):
            continue
        record = sequences.source[0]
        follower = loaded.method.evaluators[stream]
        state, shown = None, []
        frames = sequences.frames(record)
        for number, frame in zip(range(min(REPORTED, sequences.length_of(record))), frames):
            state = follower.begin(stream, frame) if state is None else state
            state = follower.answer(state, frame, ask(loaded, stream, follower.ask(state, frame)))
            if number % (REPORTED // 8) == 0:
                shown.append(images.label(images.scale(reported(stream, state, frame), 160), f"frame {number + 1}", 12))
        frames.close()
        note = "the first box was given, all others are the model's" if stream == "sot" else "numbers are identities"
        yield titles[stream], images.grid(shown, 4), f"Sequence {sequences.id_of(record)}; {note}."


def reported(stream: str, state: Any, frame: Mapping[str, Any]) -> Image.Image:
    """A frame of the report with what was followed in it."""
    if stream == "sot":
        return draw_boxes(frame["image"], state.boxes[-1][None], [1], [""])
    return draw_boxes(frame["image"], state.found[-1].boxes, state.found[-1].ids)
