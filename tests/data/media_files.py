"""Tiny media files for tests: every frame carries its number, so that decoded content can be checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 8
RED, BLUE = (200, 30, 30), (30, 30, 200)


def counter_frame(number: int, width: int = 64, height: int = 64) -> np.ndarray:
    """The central square shows `number` as 8 black or white bars above, red | blue below; grey outside of it."""
    picture = np.full((height, width, 3), 128, np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    edges = np.linspace(0, side, BITS + 1).astype(int)
    for bit in range(BITS):
        square[: side // 2, edges[bit] : edges[bit + 1]] = 255 if number >> bit & 1 else 0
    square[side // 2 :, : side // 2] = RED
    square[side // 2 :, side // 2 :] = BLUE
    return picture


def read_counter(picture: np.ndarray) -> int:
    """The number that `counter_frame` drew, from a picture of any size with the same centre."""
    height, width = picture.shape[:2]
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side].astype(int).mean(-1)
    columns = [int((bit + 0.5) * side / BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(columns) if square[side // 4, x] > 128)


def counters(frames: np.ndarray) -> list[int]:
    return [read_counter(picture) for picture in frames]


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Gives the thread its scheduling back: SVT-AV1 makes whoever opens it as root a real-time process, which then
    takes the machine from all other test processes until its end."""
    if not hasattr(os, "sched_setscheduler"):  # not Linux
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@unhurried()
def write_video(
    path,
    count: int = 16,
    *,
    fps: int = 8,
    width: int = 64,
    height: int = 64,
    codec: str = "libx264",
    gop: int = 4,
    times_ms: list[int] | None = None,
    options: dict[str, str] | None = None,
    bframes: int = 2,
    audio_s: float = 0.0,
    start: int = 0,
    encoder: dict[str, str] | None = None,
) -> str:
    """Numbered frames, constant rate or at `times_ms`. Frame i shows the number `start + i`.

    options: of the container. encoder: of the codec.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        extra = {"preset": "veryfast", "crf": "12", "bf": str(bframes)} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=fps, options=extra | (encoder or {}))
        formats = [f.name for f in av.Codec(codec, "w").video_formats or () if f.name != "pal8"]
        stream.width, stream.height, stream.pix_fmt = width, height, (formats or ["yuv420p"])[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = gop
        if codec != "libx264":
            stream.codec_context.bit_rate = 2_000_000
            stream.codec_context.max_b_frames = bframes
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio_s else None
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(counter_frame(start + i, width, height), format="rgb24")
            frame.pts = i if times_ms is None else times_ms[i]
            frame.time_base = Fraction(1, fps) if times_ms is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _mux_silence(container, sound, audio_s)
    return str(path)


def write_audio_only(path, seconds: float = 0.3) -> str:
    with av.open(str(path), "w") as container:
        _mux_silence(container, container.add_stream("aac", rate=16000, layout="mono"), seconds)
    return str(path)


def _mux_silence(container, stream, seconds: float) -> None:
    for i in range(int(seconds * 16000 / 1024) + 1):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, i * 1024, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def rotate_tag(path) -> str:
    """Rewrites the display matrix of an mp4's track header: players show it turned by 90 degrees clockwise."""

    def matrix(*rows):
        units = [1 << (30 if k % 3 == 2 else 16) for k in range(9)]
        return b"".join((v * unit).to_bytes(4, "big", signed=True) for v, unit in zip(rows, units))

    data = bytearray(Path(path).read_bytes())
    upright = matrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    where = data.index(upright, data.index(b"tkhd"))
    data[where : where + len(upright)] = matrix(0, 1, 0, -1, 0, 0, 0, 0, 1)
    Path(path).write_bytes(data)
    return str(path)


def copy_packets(path, out, change) -> str:
    """The packets once more; `change(k, packet)` may edit number k, False leaves it out."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream, k = source.streams.video[0], 0
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                if change(k, packet) is not False:
                    packet.stream = copy
                    target.mux(packet)
                k += 1
    return str(out)


def find_box(data: bytes, *names: bytes) -> tuple[int, int]:
    """`(offset, size)` of an MP4 box by its path."""
    at, end = 0, len(data)
    for depth, name in enumerate(names):
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big") or end
        size = int.from_bytes(data[at : at + 4], "big")
        if depth + 1 < len(names):
            at, end = at + 8, at + size
    return at, size


def cut(path, out, share: float) -> str:
    data = Path(path).read_bytes()
    Path(out).write_bytes(data[: int(len(data) * share)])
    return str(out)


def trim_without_reencoding(path, out, seconds: float) -> str:
    """What a lossless cut does: the packets before the cut stay in the file, an edit list hides them."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = int(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    return str(out)
