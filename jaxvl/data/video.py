"""Video files to frames with PyAV: by time stamp, one thread, exact for variable frame rates.

Three steps. `index_video` demuxes the file (no decoding) and learns the time stamp of every frame.
`pts_at` says which frame is on screen at a time. `read_frames` decodes just what leads to the wanted
frames: it seeks only where that jumps over a key frame, skips frames that nothing refers to, and scales
straight from the decoder's pixels. The result equals a full sequential decode, bit for bit.

Seconds count from the first frame. A video's pixels are taken as square (the aspect tag is ignored) and
its rotation tag is honoured. `load_clip` is what methods call: any source of frames to `[T, R, R, 3]`.

Nothing here may import jax: it runs in worker processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import images, lmdb_source
from jaxvl.data.frames import ARRAY_ENDINGS, ArrayFrames, FrameFolder, FrameSource
from jaxvl.data.lmdb_source import EncodedVideo
from jaxvl.data.sampling import get_sampler, valid_mask

# Without the two FULL_CHR flags swscale halves the colour resolution of vivid pictures.
SCALE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Decoders that drop unreferenced frames and nothing else when told to; dav1d drops wanted ones too.
EXACT_SKIP = frozenset({"h264", "hevc", "mpeg4"})
# Containers whose time stamps stay right after a seek (checked against sequential decode); the program streams
# of old .mpg files come back shifted by a frame. All others are read from the start.
SEEKS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv", "asf"})
WHOLE = 0.95  # share of what the header promises that must be there, else the file counts as truncated


@dataclasses.dataclass(frozen=True, eq=False)
class VideoIndex:
    """Time stamps of a video's frames, from its packets.

    pts: `[n]` int64, presentation time stamps, ascending.
    keys: `[k]` int64, those of the key frames that can be sought; the first frame alone if none can.
    time_base: seconds a tick.
    end: tick at which the last frame leaves the screen.
    exact: False where the file carries no usable stamps (AVI, raw streams): `pts` then counts frames.
    slots: `[n]` int64 for AVI, ticks at which the frames appear; a slot without a frame repeats the one before it.
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: float
    end: int
    exact: bool
    slots: np.ndarray | None = None

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


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """T frames of a video.

    frames: `[T, R, R, 3]` uint8 RGB. mask: `[T]` bool, False where the last frame is repeated because the
    video has fewer than T. times: `[T]` float64, seconds at which each frame appears in the video.
    """

    frames: np.ndarray
    mask: np.ndarray
    times: np.ndarray


def index_video(path: str | os.PathLike | EncodedVideo) -> VideoIndex:
    """Reads all packets of the first video stream (3 to 20 ms) without decoding.

    Raises BadMedia: missing, empty, not a video, no video stream, no frames, truncated (by more than 5 %).
    """
    with _opened(path) as (container, stream):
        return _index(container, stream, os.fspath(path))


def pts_at(index: VideoIndex, seconds: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Time stamp of the frame on screen at each of `seconds` (before the first: the first). Same shape, int64."""
    ticks = index.ticks[0] + np.asarray(seconds, np.float64) / index.time_base + 1e-6
    return index.pts[np.searchsorted(index.ticks, ticks, "right").clip(1) - 1]


def read_frames(
    path: str | os.PathLike | EncodedVideo,
    pts: Sequence[int] | np.ndarray,
    index: VideoIndex,
    *,
    short_side: int | None = None,
    center_crop: int | None = None,
) -> np.ndarray:
    """Decodes the frames with the given time stamps, upright.

    pts: values of `index.pts`, in any order, repeats allowed.
    short_side: resize the shorter side to this (bicubic, one swscale pass); None keeps the size.
    center_crop: then cut this square out of the middle.
    Returns `[len(pts), H, W, 3]` uint8 RGB in the order asked for. Raises BadMedia where a frame cannot be decoded.
    """
    wanted = [int(t) for t in np.asarray(pts).reshape(-1)]
    pictures: dict[int, np.ndarray] = {}
    visit_frames(path, wanted, index, pictures.__setitem__, short_side=short_side, center_crop=center_crop)
    return np.stack([pictures[t] for t in wanted])


def visit_frames(
    path: str | os.PathLike | EncodedVideo,
    pts: Sequence[int] | np.ndarray,
    index: VideoIndex,
    visit: Callable[[int, np.ndarray], object],
    *,
    short_side: int | None = None,
    center_crop: int | None = None,
) -> None:
    """Decodes as `read_frames` and calls `visit(pts, picture [H, W, 3])` for each different time stamp, ascending.

    One frame is held at a time, so the length of the video does not matter. (No generator: one that outlived its
    container would crash the process.)
    """
    name = os.fspath(path)
    wanted = sorted({int(t) for t in np.asarray(pts).reshape(-1)})
    reformatter = VideoReformatter()  # reused: building its tables costs more than a small frame
    with _opened(path) as (container, stream):
        cursor = _Cursor(container, stream, index, frozenset(wanted))
        try:
            for target in wanted:
                frame = cursor.advance_to(target)
                if frame is None:
                    seconds = (target - int(index.pts[0])) * index.time_base
                    raise BadMedia(name, f"the frame at {seconds:.3f} s cannot be decoded (broken or truncated)")
                visit(target, _picture(frame, reformatter, short_side, center_crop))
        finally:
            cursor.close()


class VideoFile:
    """A video file, on disk or in memory, as a `FrameSource`. `index` spares the demuxing where the caller kept one.

    media: the path, or the `EncodedVideo`.
    """

    timed = True

    def __init__(self, path: str | os.PathLike | EncodedVideo, index: VideoIndex | None = None):
        self.path, self.media = os.fspath(path), path
        self.index = index_video(path) if index is None else index
        self.times = self.index.times
        self.duration = self.index.duration

    def read(self, indices: Sequence[int], short_side: int | None, crop: bool = True) -> np.ndarray:
        """See `frames.FrameSource.read`."""
        stamps = self.index.pts[np.asarray(indices)]
        square = short_side if crop else None
        return read_frames(self.media, stamps, self.index, short_side=short_side, center_crop=square)


def open_source(path: str | os.PathLike | FrameSource, fps: float | None = None) -> FrameSource:
    """The frames at `path`: a video file, a folder of extracted frames, a `.npy` or `.npz`, a video inside an LMDB
    (`videos.lmdb/KEY`), or a source as it is.

    fps: the rate at which a folder or an array was extracted; video files know their own times.
    """
    if isinstance(path, FrameSource):
        return path
    if os.path.isdir(path):
        return FrameFolder(path, fps)
    if os.fspath(path).lower().endswith(ARRAY_ENDINGS):
        return ArrayFrames(path, fps)
    if lmdb_source.split_path(path) is not None:
        return VideoFile(lmdb_source.read_video(path))
    return VideoFile(path)


def load_clip(
    path: str | os.PathLike | FrameSource,
    *,
    num_frames: int,
    image_size: int,
    sampling: str,
    rng: np.random.Generator | None = None,
    fps: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Clip:
    """Samples `num_frames` frames (T) and brings them to `image_size` squared (R): short side R, centre crop.

    path: a video file, a folder of frames, a `.npy`/`.npz`, or a `FrameSource` (a record of `records.py`).
    sampling: a name of `sampling.SAMPLERS`; `rng` is needed by those that draw at random.
    fps: resample the video to this rate first, as if it had been re-encoded: frame i is the one on screen
        at `i / fps`, and there are `floor(duration * fps)` of them, at least one. The sampler then picks
        among these. None picks among the real frames. Folders and arrays are taken to be at this rate.
    start_s, end_s: seconds; keep frames `int(start * fps)` to `int(end * fps)`, both included, or without
        fps from the frame shown at the start to the one shown at the end.
    Raises BadMedia (also where the range lies past the end of the video) and InputError (unknown sampling,
    a range in seconds on frames of unknown rate, an inverted range).
    """
    sampler = get_sampler(sampling)
    source = open_source(path, fps)
    candidates = _candidates(source, fps, start_s, end_s)
    picks = sampler(num_frames, len(candidates), rng)
    chosen = candidates[picks]
    return Clip(source.read(chosen, image_size), valid_mask(num_frames, len(candidates)), source.times[chosen])


def _candidates(source: FrameSource, fps: float | None, start_s: float | None, end_s: float | None) -> np.ndarray:
    """Indices of the real frames that the sampler may pick from, `[m]`, ascending, with repeats if fps is high."""
    start = 0.0 if start_s is None else max(0.0, float(start_s))
    end = source.duration if end_s is None else float(end_s)
    if (start_s is not None or end_s is not None) and not source.timed:
        raise InputError(f"{source.path}: a range in seconds needs the rate of these frames: set fps")
    if end_s is not None and end < start:
        raise InputError(f"{source.path}: the range {start:g} to {end:g} s is inverted")
    if start > 0 and start >= source.duration:
        raise BadMedia(source.path, f"the range starts at {start:g} s, the video ends at {source.duration:.2f} s")
    if fps is None:
        first, last = _shown(source, np.array([start, end]))
        return np.arange(first, last + 1)
    count = max(1, int(source.duration * fps + 1e-6))  # 1e-6: 2 s in ticks of 1/30000 may come to 1.9999999
    first = min(int(start * fps + 1e-6), count - 1)
    last = count - 1 if end_s is None else min(int(end * fps + 1e-6), count - 1)
    return _shown(source, np.arange(first, last + 1) / fps)


def _shown(source: FrameSource, seconds: np.ndarray) -> np.ndarray:
    return np.searchsorted(source.times, seconds + 1e-6, "right").clip(1) - 1


def _picture(frame, reformatter: VideoReformatter, short_side: int | None, crop: int | None) -> np.ndarray:
    """One decoded frame to upright RGB, `[H, W, 3]` uint8; for H.264 scaling costs less before than after RGB."""
    width, height, interpolation = frame.width, frame.height, None
    if short_side is not None and min(width, height) != short_side:
        width, height = images.short_side_size(width, height, short_side)
        interpolation = SCALE
    # threads=1: the default is one a CPU, in every worker. Rotation is in counter-clockwise degrees.
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    picture = np.rot90(rgb.to_ndarray(), frame.rotation // 90)
    if crop is not None:
        left, top = images.crop_offsets(picture.shape[1], picture.shape[0], crop)
        picture = picture[top : top + crop, left : left + crop]
    return picture


class _Cursor:
    """Walks forward over the frames of one open container. Close it before the container closes."""

    def __init__(self, container, stream, index: VideoIndex, targets: frozenset[int]):
        self.container, self.stream, self.index, self.targets = container, stream, index, targets
        self.codec = stream.codec_context
        stream.thread_type = "NONE"
        self.codec.thread_count = 1
        self.skips = index.exact and self.codec.name in EXACT_SKIP
        self.may_seek = index.exact
        self.frames: Iterator | None = None
        # Stamp of the last frame that came out, None at the end of the file.
        self.position: int | None = int(index.pts[0]) - 1

    def advance_to(self, target: int):
        """The frame with time stamp `target`, or None. Targets must come in ascending order."""
        key = int(self.index.keys[max(0, np.searchsorted(self.index.keys, target, "right") - 1)])
        jumps = self.may_seek and key > self.index.keys[0] and self.position is not None and key > self.position
        if jumps or self.frames is None:
            self._restart(key if jumps else None)
        frame = self._step()
        if self.may_seek and self.position is not None and self.position > target:
            # MPEG-TS lands after the key frame: start again from the first frame and seek no more.
            self.may_seek = False
            self._restart(int(self.index.pts[0]))
            frame = self._step()
        while self.position is not None and self.position < target:
            frame = self._step()
        return frame if self.position == target else None

    def close(self) -> None:
        if self.frames is not None:
            self.frames.close()
            self.frames = None

    def _restart(self, seek_to: int | None) -> None:
        self.close()
        if seek_to is not None:
            self.container.seek(seek_to, stream=self.stream)
        self.frames = self._decode()

    def _step(self):
        self.position, frame = next(self.frames, (None, None))
        return frame

    def _decode(self) -> Iterator:
        count = 0
        for packet in self.container.demux(self.stream):
            if self.skips and packet.size:
                self.codec.skip_frame = "DEFAULT" if packet.pts in self.targets else "NONREF"
            for frame in packet.decode():
                yield (frame.pts if self.index.exact else count), frame
                count += 1


@contextlib.contextmanager
def _opened(path: str | os.PathLike | EncodedVideo) -> Iterator[tuple]:
    """`(container, video stream)`; the one place where FFmpeg's errors become BadMedia."""
    name = os.fspath(path)
    if isinstance(path, EncodedVideo):
        file: str | io.BytesIO = io.BytesIO(path.data)
    elif os.path.isdir(name):
        raise BadMedia(name, "is a folder, not a video file")
    elif not os.path.exists(name):
        raise BadMedia(name, "file is missing")
    elif os.path.getsize(name) == 0:
        raise BadMedia(name, "empty file (0 bytes)")
    else:
        file = os.path.abspath(name)  # or FFmpeg reads what precedes a colon as a protocol
    opened = False
    try:
        with av.open(file, metadata_errors="replace") as container:
            opened = True
            # Cover pictures of music files pose as video streams.
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise BadMedia(name, "no video stream")
            yield container, streams[0]
    except av.error.InvalidDataError as error:
        reason = "broken data inside the video" if opened else "not a video file, or cut off before its header"
        raise BadMedia(name, reason) from error
    except av.error.FFmpegError as error:
        raise BadMedia(name, f"FFmpeg cannot read it: {error.strerror or error}") from error


def _index(container, stream, path: str) -> VideoIndex:
    packets = []  # (pts, duration, is key) of the frames that are shown
    slots = []  # of AVI: the place of each stored frame among all that the header counts
    stamps, seen, latest = [], 0, 0.0  # latest: seconds at which the last packet of any stream ends
    # Where the stream itself promises no length, the container's is that of its longest stream.
    everything = container.demux() if stream.duration is None else container.demux(stream)
    for packet in everything:
        if not packet.size:
            continue
        if packet.pts is not None and packet.time_base is not None:
            latest = max(latest, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.is_corrupt or packet.stream.index != stream.index:
            continue
        seen += 1
        if packet.pts is not None:
            stamps += [packet.pts, packet.pts + (packet.duration or 0)]
        if not packet.is_discard:  # discarded by an edit list: decoded by players, never shown
            packets.append((packet.pts, packet.duration or 0, packet.is_keyframe))
            slots.append(packet.dts)
    if not packets:
        raise BadMedia(path, "no frames")

    shown = [p[0] for p in packets]
    exact = container.format.name != "avi" and None not in shown and len(set(shown)) == len(shown)
    time_base = float(stream.time_base)
    if not exact:
        time_base = 1.0 / float(stream.average_rate or 25)
        packets = [(i, 1, i == 0) for i in range(len(packets))]
        stamps = [0, seen]
    counted = None
    if container.format.name == "avi" and None not in slots and all(a < b for a, b in itertools.pairwise(slots)):
        counted = np.array(slots, np.int64)
        seen = slots[-1] + 1
        stamps = [0, seen]
    _check_whole(path, stream, container, seen, (max(stamps) - min(stamps)) * time_base, latest)

    pts = np.array(sorted(p[0] for p in packets), np.int64)
    keys = np.array(sorted(p[0] for p in packets if p[2]), np.int64)
    end = max(p[0] + p[1] for p in packets) if counted is None else int(counted[-1]) + 1
    if end == pts[-1]:  # no durations in the packets (MPEG-TS, raw): the last frame stays as long as the others
        end += max(1, int(np.median(np.diff(pts)))) if len(pts) > 1 else max(1, round(0.04 / time_base))
    if container.format.name not in SEEKS or not len(keys):
        keys = pts[:1]
    return VideoIndex(pts, keys, time_base, int(end), exact, counted)


def _check_whole(path: str, stream, container, frames: int, seconds: float, latest: float) -> None:
    """Raises BadMedia where less came out of the file than its header promises."""
    if stream.frames and frames < WHOLE * stream.frames:
        raise BadMedia(path, f"truncated: {frames} of {stream.frames} frames are there")
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    else:
        # Matroska counts its duration from zero, not from the first frame.
        promised, seconds = (container.duration or 0) / av.time_base, max(seconds, latest)
    if seconds < WHOLE * promised:
        raise BadMedia(path, f"truncated: {seconds:.2f} of {promised:.2f} s are there")
