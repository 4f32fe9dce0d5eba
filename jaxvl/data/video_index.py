"""What a video file shows and when: the time of every frame.

Two ways. Where container and codec keep their word (MP4 and Matroska with stamps that are complete, different and in
order), the packets say it all and nothing is decoded. Everything else (no stamps, two frames of one stamp, streams
that begin without a key frame or were joined, AVI, MPEG, FLV, ASF, Ogg, GIF) is decoded once, so that the index
counts what really comes out.

Nothing here may import jax: it runs in worker processes.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import threading
from collections.abc import Sequence

import av
import numpy as np

from jaxvl.core.errors import BadMedia
from jaxvl.data.lmdb_source import EncodedVideo
from jaxvl.data.video_decode import Media, opened, plain_decode
from jaxvl.data.whole_file import missing_part

# Seeks are tried here alone; checked against sequential decode over all codecs that can be written.
SEEKS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
# One packet, one frame, under the packet's stamp.
PLAIN_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores", "ffv1"})
WHOLE = 0.95  # share of what the header promises that must be there, where the container does not say its own size
JUMP = 10.0  # seconds: a longer step of a broadcast's stamps is a joint, not a pause (as ffmpeg takes it)
_REMEMBERED = 1 << 25  # bytes of indices kept by each process for files that had to be decoded to know them


@dataclasses.dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video and their times.

    pts: `[n]` int64, names of the frames, ascending: presentation time stamps, or 0, 1, 2 ... if not `exact`.
    keys: `[k]` int64, those of the key frames that can be sought; the first frame alone if none can.
    time_base: seconds a tick.
    end: tick at which the last frame leaves the screen.
    exact: False where stamps cannot name the frames: `pts` then counts those of a plain decode.
    slots: `[n]` int64, ticks at which the frames appear, ascending, two may be equal; None where `pts` are the ticks.
    left_out: packets before the first key frame, which no player can show.
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: float
    end: int
    exact: bool
    slots: np.ndarray | None = None
    left_out: int = 0

    @property
    def ticks(self) -> np.ndarray:
        """`[n]` int64, when each frame appears."""
        return self.pts if self.slots is None else self.slots

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.pts)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last one's end."""
        return float(self.end - self.ticks[0]) * self.time_base

    @property
    def times(self) -> np.ndarray:
        """`[n]` float64, the second at which each frame appears."""
        return (self.ticks - self.ticks[0]) * self.time_base


def index_video(path: Media) -> VideoIndex:
    """The index of the first video stream: 3 to 20 ms where packets suffice, else one decode of the whole file.

    Raises BadMedia: missing, empty, no regular file, not a video, no video stream, no frames, a part is missing.
    """
    name = os.fspath(path)
    key = _file_key(path)
    if (known := _memory.get(key)) is not None:
        return known
    with opened(path) as (container, stream):
        packets = _packets(container, stream)
        _check_whole(path, container, stream, packets)
        index = _from_packets(container, stream, packets)
    if index is None:
        with opened(path) as (container, stream):
            index = _from_frames(name, container, stream, packets)
        _memory.put(key, index)
    return index


@dataclasses.dataclass
class _Packets:
    """What the demuxer gave of the video stream, in its order.

    corrupt: numbers of packets marked as damaged. latest: seconds at which the last of any stream ends.
    """

    pts: list[int | None]
    dts: list[int | None]
    ends: list[int | None]
    keys: list[bool]
    shown: list[bool]
    corrupt: list[int]
    latest: float


def _packets(container, stream) -> _Packets:
    found = _Packets([], [], [], [], [], [], 0.0)
    codec = stream.codec_context.name
    # Where the stream itself promises no length, the container's is that of its longest stream.
    for packet in container.demux() if stream.duration is None else container.demux(stream):
        if not packet.size:
            continue
        end = None if packet.pts is None else packet.pts + (packet.duration or 0)
        if end is not None and packet.time_base is not None:
            found.latest = max(found.latest, float(end * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        found.corrupt += [len(found.pts)] if packet.is_corrupt else []
        found.pts.append(packet.pts)
        found.dts.append(packet.dts)
        found.ends.append(end)
        found.keys.append(packet.is_keyframe)
        # Discarded by an edit list: players decode and do not show it.
        found.shown.append(not (packet.is_discard or _hidden(codec, packet)))
    return found


def _hidden(codec: str, packet) -> bool:
    """Whether a VP8 or VP9 packet holds nothing but a frame that is never shown, an alternate reference.

    RFC 6386, 9.1: show_frame. VP9 bitstream specification, 6.2 (profiles 0 to 2) and annex B (superframes).
    """
    if codec not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] & 16
    return data[-1] >> 5 != 0b110 and data[0] >> 6 == 2 and not data[0] & 8 and not data[0] & 2


def _from_packets(container, stream, packets: _Packets) -> VideoIndex | None:
    """The index, or None where the packets cannot be relied on."""
    if container.format.name not in SEEKS or stream.codec_context.name not in PLAIN_CODECS or packets.corrupt:
        return None
    if not packets.pts or not packets.keys[0] or None in packets.pts:
        return None
    if len(set(packets.pts)) < len(packets.pts) or packets.pts[0] != min(packets.pts):
        return None
    # All frames before a key frame in the file come before it on the screen; not so where streams were joined.
    latest = packets.pts[0] - 1
    for pts, key in zip(packets.pts, packets.keys):
        if key and pts < latest:
            return None
        latest = max(latest, pts)
    pts = np.array(sorted(t for t, shown in zip(packets.pts, packets.shown) if shown), np.int64)
    if not len(pts):
        return None
    keys = [t for t, key, shown in zip(packets.pts, packets.keys, packets.shown) if key and shown]
    end = max(end for end, shown in zip(packets.ends, packets.shown) if shown)
    time_base = float(stream.time_base)
    return VideoIndex(pts, np.array(keys or [pts[0]], np.int64), time_base, _end(pts, end, time_base), True)


def _from_frames(name: str, container, stream, packets: _Packets) -> VideoIndex:
    """The index by decoding everything. Raises BadMedia: no frames, damage that the decoder notices."""
    stamps, broken, left_out = [], [], [0]
    for frame in plain_decode(container, stream, left_out):
        stamps.append(frame.pts)
        broken.append(frame.is_corrupt)
    if container.format.name in ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"):
        while broken and broken[-1]:  # recordings end anywhere: the last picture is not whole
            broken.pop(), stamps.pop()
            left_out[0] += 1
    if not stamps:
        raise BadMedia(name, "no frames")
    if any(broken):
        raise BadMedia(name, f"broken data inside the video ({sum(broken)} of {len(broken)} frames are damaged)")
    count = len(stamps)
    time_base, end = float(stream.time_base), None
    slots = [t for t, shown in zip(packets.dts, packets.shown) if shown]
    if container.format.name == "avi" and len(slots) == count and None not in slots:
        slots = sorted(slots)  # an AVI counts slots; one without a frame repeats the frame before it
        end = slots[-1] + 1
    elif container.format.name == "avi" or None in stamps:
        slots, time_base, end = list(range(count)), 1.0 / float(stream.guessed_rate or 25), count
    else:
        ends = {t: e for t, e in zip(packets.pts, packets.ends) if t is not None}
        slots, moved = _in_order(stamps, time_base, broadcast=container.format.name in ("mpegts", "mpeg"))
        end = ends.get(stamps[-1], stamps[-1]) + moved
    slots = np.array(slots, np.int64)
    pts = np.arange(count, dtype=np.int64)
    return VideoIndex(pts, pts[:1], time_base, _end(slots, end, time_base), False, slots, left_out[0])


def _in_order(stamps: Sequence[int], time_base: float, broadcast: bool) -> tuple[list[int], int]:
    """Ascending ticks from the stamps of frames in the order in which they are shown, and the last one's shift.

    Where stamps begin anew (streams that were joined), the frame follows the one before it by the usual distance.
    """
    steps = [b - a for a, b in itertools.pairwise(stamps) if b > a]
    usual = max(1, int(np.median(steps))) if steps else max(1, round(0.04 / time_base))
    parts, shift, first = [[stamps[0]]], 0, stamps[0]
    for before, stamp in itertools.pairwise(stamps):
        back = before - stamp
        restart = back > 0 and (stamp <= first or back * time_base > 1.0)
        if restart or (broadcast and -back * time_base > JUMP):
            shift, first = max(parts[-1]) + usual - stamp, stamp
            parts.append([])
        parts[-1].append(stamp + shift)
    # ASF knows decoding times alone: there the stamps of frames shown in another order are mixed up, not the frames.
    return [stamp for part in parts for stamp in sorted(part)], shift


def _end(ticks: np.ndarray, end: int, time_base: float) -> int:
    """`end`; without durations in the packets (MPEG-TS, raw) the last frame stays as long as the others."""
    if end > ticks[-1]:
        return int(end)
    usual = int(np.median(np.diff(ticks))) if len(ticks) > 1 else round(0.04 / time_base)
    return int(ticks[-1]) + max(1, usual)


def _gap(packets: _Packets, at: int, stream) -> bool:
    """Whether packets are missing behind number `at`, where MPEG-TS stopped counting; else two recordings were joined
    there: a key frame follows (the mark may come some packets early), with no gap in the stamps or one of any size."""
    dts = packets.dts
    key = next((k for k in range(at + 1, min(at + 4, len(dts))) if packets.keys[k]), None)
    if key is None and at + 4 < len(dts):
        return True
    steps = [b - a for a, b in itertools.pairwise(dts) if None not in (a, b) and b > a]
    after = dts[max(0, at - 1) :] if key is None else dts[key - 1 : key + 1]
    if not steps or None in after:
        return False
    least, most = 1.5 * float(np.median(steps)), JUMP / float(stream.time_base)
    return any(least < b - a < most for a, b in itertools.pairwise(after))


def _check_whole(path: Media, container, stream, packets: _Packets) -> None:
    """Raises BadMedia where a part of the file is missing."""
    name = os.fspath(path)
    data = path.data if isinstance(path, EncodedVideo) else name
    known, reason = missing_part(data, container.format.name)
    size = len(data) if isinstance(path, EncodedVideo) else os.path.getsize(name)
    if reason.startswith("truncated") and container.format.name.startswith("mov"):
        entries = stream.index_entries
        if len(entries) > 1 and all(entry.pos + entry.size <= size for entry in entries):
            reason = ""  # all pictures are there: the box was counted wrongly
    if container.format.name == "avi" and not reason:
        listed = sum(entry.size > 0 for entry in stream.index_entries)
        if len(packets.pts) < listed:
            reason = f"broken: {len(packets.pts)} of the {listed} frames in its index are there"
    if not reason and container.format.name == "mpegts" and any(_gap(packets, at, stream) for at in packets.corrupt):
        reason = "broken: packets are missing in the middle"
    if not reason and container.format.name == "nut" and None not in packets.pts and len(packets.pts) > 2:
        steps = np.diff(sorted(packets.pts))  # what FFmpeg skips in a damaged NUT shows in the stamps alone
        if steps.max() > 2.5 * max(1.0, float(np.median(steps))):
            reason = "broken: frames are missing in the middle"
    if reason:
        raise BadMedia(name, reason)
    if known:
        return
    seen = len(packets.pts)
    if stream.frames and seen < WHOLE * stream.frames:
        raise BadMedia(name, f"truncated: {seen} of {stream.frames} frames are there")
    stamped = [(t, e) for t, e in zip(packets.pts, packets.ends) if t is not None]
    if len(stamped) < seen:
        return
    seconds = (max(e for _, e in stamped) - min(t for t, _ in stamped)) * float(stream.time_base) if stamped else 0.0
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    else:
        # Matroska counts its duration from zero, not from the first frame.
        promised, seconds = (container.duration or 0) / av.time_base, max(seconds, packets.latest)
    if seconds < WHOLE * promised:
        raise BadMedia(name, f"truncated: {seconds:.2f} of {promised:.2f} s are there")


class _Memory:
    """The last indices, by file; of this process, for all its threads."""

    def __init__(self, limit: int):
        self.limit, self.held, self.lock = limit, 0, threading.Lock()
        self.kept: collections.OrderedDict[tuple, VideoIndex] = collections.OrderedDict()

    def get(self, key: tuple | None) -> VideoIndex | None:
        with self.lock:
            if key not in self.kept:
                return None
            self.kept.move_to_end(key)
            return self.kept[key]

    def put(self, key: tuple | None, index: VideoIndex) -> None:
        if key is None:
            return
        with self.lock:
            self.held += 0 if key in self.kept else _bytes(index)
            self.kept[key] = index
            while self.held > self.limit and self.kept:
                self.held -= _bytes(self.kept.popitem(last=False)[1])


def _bytes(index: VideoIndex) -> int:
    return 1024 + 16 * index.num_frames


def _file_key(path: Media) -> tuple | None:
    """What names a file and changes with it; None for bytes in memory and for what is not there."""
    if isinstance(path, EncodedVideo):
        return None
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


_memory = _Memory(_REMEMBERED)
