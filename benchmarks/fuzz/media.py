"""Numbered videos of many codecs and containers, whole or hurt; right is the number in each frame at its time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.fuzz import RIGHT, SILENT, one_line
from jaxvl.core.errors import BadMedia
from jaxvl.data.video import index_video, read_frames

SIDE, BITS, FPS = 64, 6, 25
FILES = [
    *[
        ("mp4", "libx264"),
        ("mov", "mpeg4"),
        ("mkv", "libx264"),
        ("webm", "libvpx"),
        ("avi", "mpeg4"),
        ("ts", "libx264"),
    ],
    *[("flv", "flv"), ("wmv", "wmv2"), ("gif", "gif"), ("ogv", "libvpx"), ("mpg", "mpeg2video"), ("nut", "ffv1")],
    *[("mkv", "mpeg4"), ("mp4", "mpeg4"), ("mxf", "mpeg2video"), ("mkv", "mjpeg"), ("ts", "mpeg2video")],
]
NO_LENGTH = ("ts", "mpg")
"""Containers that do not say how long they are: a tail that is gone cannot be missed."""


def draw(number: int) -> np.ndarray:
    """`[H, W, 3]`: the bits of `number` as bars."""
    bits = [255 * (number >> b & 1) for b in range(BITS)]
    row = np.repeat(np.array([*bits, 128, 128], np.uint8), SIDE // 8)
    return np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """What `draw` drew."""
    means = frames.reshape(len(frames), SIDE, 8, SIDE // 8, 3)[:, :, :, 2:-2].mean((1, 3, 4))
    return [sum(1 << b for b in range(BITS) if m[b] > 128) for m in means]


def write(path: Path, codec: str, count: int, gop: int, bframes: int, start: int = 0) -> None:
    """Frame i shows `start + i`."""
    with av.open(str(path), "w") as container:
        options = {"libx264": {"crf": "12", "preset": "veryfast"}, "libvpx": {"deadline": "realtime"}}.get(codec, {})
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = av.Codec(codec, "w").video_formats[0].name
        context = stream.codec_context
        context.thread_count, context.gop_size, context.bit_rate = 1, gop, 4_000_000
        context.max_b_frames = bframes if codec in ("libx264", "mpeg4", "mpeg2video") else 0
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(draw(start + i), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def run(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """One video."""
    ending, codec = FILES[rng.integers(len(FILES))]
    count, gop, bframes = int(rng.integers(8, 31)), int(rng.integers(2, 12)), int(rng.integers(0, 3))
    if ending == "avi":
        bframes = 0
    path = folder / f"a.{ending}"
    write(path, codec, count, gop, bframes)
    data, right = path.read_bytes(), list(range(count))
    kinds = ["whole", "whole", "tail", "middle", "few", "zeros", "junk", "list", "noise at the head"]
    how = (
        kinds[rng.integers(len(kinds) + (ending in NO_LENGTH))]
        if ending not in NO_LENGTH
        else str(rng.choice([*kinds, "joined"]))
    )
    a, b = sorted(int(x) for x in rng.integers(len(data) // 3, len(data), 2))
    if how == "tail":
        data = data[:b]
    elif how == "middle":
        data = data[:a] + data[b:]
    elif how == "few":
        data = data[:a] + data[a + int(rng.integers(1, 9)) :]
    elif how == "zeros":
        data = data[:a] + bytes(b - a) + data[b:]
    elif how == "junk":
        data += rng.bytes(int(rng.integers(1, 2000)))
    elif how == "list":
        (folder / "b.mp4").write_bytes(data)
        data = b"ffconcat version 1.0\nfile b.mp4\n"
    elif how == "noise at the head":
        place = int(rng.integers(0, 64))
        data = data[:place] + rng.bytes(4) + data[place + 4 :]
    elif how == "joined":
        write(folder / f"b.{ending}", codec, 8, gop, bframes, start=32)
        data += (folder / f"b.{ending}").read_bytes()
        right += range(32, 40)
    path.write_bytes(data)
    what = f"{ending} {codec} of {count}, gop {gop}, {bframes} B, {how}"
    try:
        index = index_video(path)
        picks = rng.permutation(index.num_frames)
        got = np.empty(index.num_frames, int)
        got[picks] = numbers(read_frames(path, index.pts[picks], index))
        alone = int(rng.integers(index.num_frames))
        same = numbers(read_frames(path, index.pts[[alone]], index)) == [got[alone]]
    except BadMedia as bad:
        return what, one_line(bad)
    steps = np.diff(index.times)
    even = how == "noise at the head" or bool(np.allclose(steps, 1 / FPS, atol=0.02))  # a stamp has no checksum
    whole = got.tolist() == right and even
    # Of a tail that is gone the B-frames before the last reference are gone too; what is there must stand at its time.
    placed = bool(np.allclose(index.times * FPS, got - got[0], atol=0.5)) and got[-1] - got[0] + 1 - len(got) <= bframes
    cut = how in ("tail", "middle", "zeros", "few") and ending in NO_LENGTH and got[0] == 0 and placed
    return f"{what}: {got.tolist()}", RIGHT if same and (whole or cut) else SILENT
