"""Video files to frames with PyAV: by time, one thread, exact for variable frame rates.

Three steps. `index_video` learns when every frame appears, from the packets where they keep their word and else by
decoding once. `pts_at` says which frame is on screen at a time. `read_frames` decodes just what leads to the wanted
frames: it seeks only where that jumps over a key frame, skips frames that nothing refers to, and scales straight from
the decoder's pixels. The result equals a full sequential decode, bit for bit.

Seconds count from the first frame. A video's pixels are taken as square (the aspect tag is ignored); the display
matrix that turns or mirrors it is honoured. `load_clip` is what methods call: any source of frames to `[T, R, R, 3]`.

Nothing here may import jax: it runs in worker processes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from av.video.reformatter import VideoReformatter

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import left_out, lmdb_source, video_decode
from jaxvl.data.frames import ARRAY_ENDINGS, ArrayFrames, FrameFolder, FrameSource
from jaxvl.data.lmdb_source import EncodedVideo
from jaxvl.data.sampling import get_sampler, valid_mask
from jaxvl.data.video_index import VideoIndex, index_video

__all__ = ["Clip", "VideoFile", "VideoIndex", "index_video", "load_clip", "open_source", "pts_at", "read_frames"]


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """T frames of a video.

    frames: `[T, R, R, 3]` uint8 RGB. mask: `[T]` bool, False where the last frame is repeated because the
    video has fewer than T. times: `[T]` float64, seconds at which each frame appears in the video.
    """

    frames: np.ndarray
    mask: np.ndarray
    times: np.ndarray


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
    Returns `[len(pts), H, W, 3]` uint8 RGB in the order asked for. Raises BadMedia where a frame cannot be decoded,
    or the frames differ in size.
    """
    wanted = [int(t) for t in np.asarray(pts).reshape(-1)]
    pictures: dict[int, np.ndarray] = {}
    visit_frames(path, wanted, index, pictures.__setitem__, short_side=short_side, center_crop=center_crop)
    if len(shapes := {picture.shape[:2] for picture in pictures.values()}) > 1:
        raise BadMedia(os.fspath(path), f"the frames change their size on the way: {sorted(shapes)}")
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
    reformatter = VideoReformatter()  # reused: building its tables costs more than a small frame
    video_decode.visit(
        path,
        index,
        sorted({int(t) for t in np.asarray(pts).reshape(-1)}),
        lambda stamp, frame: visit(stamp, video_decode.picture(frame, reformatter, short_side, center_crop)),
        lambda stamp: float(index.times[np.searchsorted(index.pts, stamp).clip(max=len(index.pts) - 1)]),
    )


class VideoFile:
    """A video file, on disk or in memory, as a `FrameSource`. `index` spares the demuxing where the caller kept one.

    media: the path, or the `EncodedVideo`. left_out: packets before the first key frame, which show nothing.
    """

    timed = True

    def __init__(self, path: str | os.PathLike | EncodedVideo, index: VideoIndex | None = None):
        self.path, self.media = os.fspath(path), path
        self.index = index_video(path) if index is None else index
        self.times = self.index.times
        self.duration = self.index.duration
        self.left_out = self.index.left_out
        if self.left_out:
            left_out.note(self.path, self.left_out)

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
