"""The sprite world on disk: real video files and annotations in the published layout of a benchmark.

    ROOT/world.jsonl        the only truth: one line a clip (plan, captions, boxes); layouts derive from it
    ROOT/world_stamp.json   written last: version, layout, config and its hash
    layout 'msrvtt'         MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_train.7k.csv,
                            MSRVTT_JSFUSION_test.csv, videos/videoN.mp4
    layout 'msvd'           raw-captions.pkl, {train,val,test}_list.txt, YouTubeClips/ID.avi

A line of world.jsonl (order train, val, test) is a record: split, index, video (path under the root), image_size, fps,
num_frames, seconds, captions, background {kind, tone, ...}, events [{verb, sprite, start, end}], sprites [{id, noun,
colour, texture, size_name, size, depth, on_stage, event}], segment, twin, heldout, and tracks [{id, box_full,
box_visible, visible_fraction, opacity}] with one entry a frame (see `sprites.render.Track`).

No jax here: rendering runs in spawned processes.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic import on_disk
from jaxvl.data.synthetic.encode import write_video
from jaxvl.data.synthetic.sprites.render import Rendered, render_clip
from jaxvl.data.synthetic.sprites.world import SPLITS, Clip, WorldConfig, plan_clip

WORLD_VERSION = 1
"""Raised whenever the same config gives other clips; part of the stamp."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a benchmark is laid out. media: (split, index, config) -> path under the root; annotate:
    (records, root) -> writes the annotation files."""

    media: Callable[[str, int, WorldConfig], str]
    annotate: Callable[[Sequence[dict], Path], None]


def ensure_world(
    config: WorldConfig,
    root: str | Path,
    layout: str,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Makes sure that `root` holds the whole world of `config` in `layout` ('msrvtt' or 'msvd').

    A finished world with the same stamp is left as it is (files that were deleted are rendered again).
    A rendering that was stopped goes on with what is missing; the stamp is written last. Two calls on the
    same root at the same time are not supported: on several hosts let one of them call it.

    processes: rendering processes, spawned (so a script needs its `if __name__ == "__main__"` guard);
        default: the number of CPUs, and none for a handful of clips; 1 renders in this process.
    progress: called with (clips done, clips in all) after every clip.
    Raises InputError for an unknown layout and for a root that holds anything else. Returns `root`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    media = LAYOUTS[layout].media
    items = [
        on_disk.Item(f"{split}-{index}", media(split, index, config), (config, split, index))
        for split in SPLITS
        for index in range(config.count(split))
    ]
    stamp = make_stamp(config, layout)
    return on_disk.ensure(root, stamp, items, _render_item, LAYOUTS[layout].annotate, processes, progress)


def make_stamp(config: WorldConfig, layout: str) -> dict:
    """What `world_stamp.json` holds: version, layout, config and a hash of the three."""
    return on_disk.make_stamp(WORLD_VERSION, layout, config)


def _render_item(item: on_disk.Item, video: str, save: on_disk.Save) -> None:
    """Renders one clip: first its truth, then its video, both under their name only when whole."""
    config, split, index = item.what
    clip = plan_clip(config, split, index)
    rendered = render_clip(clip)
    save(lambda: make_record(clip, rendered, item.video))
    write_video(video, rendered.frames, config.fps, config.crf, config.gop)


def make_record(clip: Clip, rendered: Rendered, video: str) -> dict:
    """The line of `world.jsonl` for a rendered clip; `video` is its path under the root."""
    plan = dataclasses.asdict(clip)
    for sprite in plan["sprites"]:
        del sprite["path"]  # the tracks say where it is
    tracks = [dataclasses.asdict(t) for t in rendered.tracks]
    return {"video": video, "seconds": clip.seconds, **plan, "tracks": tracks}


def _number(split: str, index: int, config: WorldConfig) -> int:
    """Running number over train, val and test."""
    return index + sum(config.count(s) for s in SPLITS[: SPLITS.index(split)])


def _of(records: Iterable[dict], split: str) -> list[dict]:
    return [r for r in records if r["split"] == split]


# ---------------------------------------------------------------------------------------------- MSR-VTT

_MSRVTT_SPLITS = {"train": "train", "val": "validate", "test": "test"}


def msrvtt_media(split: str, index: int, config: WorldConfig) -> str:
    """`videos/videoN.mp4`, N counted over train, validate and test."""
    return f"videos/video{_number(split, index, config)}.mp4"


def write_msrvtt(world: Sequence[dict], root: str | Path) -> None:
    """Writes MSR-VTT's annotation files for the records `world` (lines of world.jsonl) into `root`.

    `MSRVTT_data.json` holds every caption of train and validate and the first one of every test clip;
    `MSRVTT_train.9k.csv` all training ids, `MSRVTT_train.7k.csv` the first 7,010 / 9,000 of them;
    `MSRVTT_JSFUSION_test.csv` one row a test clip, as in the 1k-A split.
    """
    root = Path(root)
    name = lambda record: Path(record["video"]).stem  # noqa: E731
    videos, sentences = [], []
    for number, r in enumerate(world):
        videos.append({
            "video_id": name(r), "category": r["index"] % 20, "url": "", "start time": 0.0,
            "end time": r["seconds"], "split": _MSRVTT_SPLITS[r["split"]], "id": number,
        })  # fmt: skip
        for caption in r["captions"][: 1 if r["split"] == "test" else None]:
            sentences.append({"caption": caption, "video_id": name(r), "sen_id": len(sentences)})
    info = {"contributor": "jaxvl", "data_created": "", "version": str(WORLD_VERSION), "description": "sprite world"}
    on_disk.write(root / "MSRVTT_data.json", json.dumps({"info": info, "videos": videos, "sentences": sentences}))
    train = [name(r) for r in _of(world, "train")]
    on_disk.write(root / "MSRVTT_train.9k.csv", _csv(["video_id"], [[v] for v in train]))
    on_disk.write(
        root / "MSRVTT_train.7k.csv", _csv(["video_id"], [[v] for v in train[: round(len(train) * 7010 / 9000)]])
    )
    test = [(name(r), r["captions"][0]) for r in _of(world, "test")]
    rows = [[f"ret{k}", f"msr{video.removeprefix('video')}", video, text] for k, (video, text) in enumerate(test)]
    on_disk.write(root / "MSRVTT_JSFUSION_test.csv", _csv(["key", "vid_key", "video_id", "sentence"], rows))


def _csv(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


# ------------------------------------------------------------------------------------------------- MSVD


def msvd_media(split: str, index: int, config: WorldConfig) -> str:
    """`YouTubeClips/ID.avi` with an id of MSVD's form, video name and first and last second."""
    return f"YouTubeClips/sprite{_number(split, index, config):05d}_0_{int(config.seconds[1])}.avi"


def write_msvd(world: Sequence[dict], root: str | Path) -> None:
    """Writes MSVD's annotation files for the records `world` into `root`: `raw-captions.pkl`, a dict from
    id to captions, each a list of words (no commas), and one list of ids a split. Test keeps all its captions."""
    root = Path(root)
    captions = {Path(r["video"]).stem: [text.replace(",", "").split() for text in r["captions"]] for r in world}
    on_disk.write(root / "raw-captions.pkl", pickle.dumps(captions, protocol=2))
    for split in SPLITS:
        on_disk.write(root / f"{split}_list.txt", "".join(Path(r["video"]).stem + "\n" for r in _of(world, split)))


LAYOUTS: dict[str, Layout] = {
    "msrvtt": Layout(msrvtt_media, write_msrvtt),
    "msvd": Layout(msvd_media, write_msvd),
}
"""Name -> layout."""
