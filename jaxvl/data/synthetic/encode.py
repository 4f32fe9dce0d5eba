"""Frames to video files with PyAV, one thread, so that the same frames give the same file on a machine."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter


def write_video(path: str | Path, frames: np.ndarray, fps: int, crf: int = 18, gop: int | None = None) -> None:
    """Writes uint8 RGB `frames` `[F, H, W, 3]` (H, W even) to `path`; the suffix chooses the kind.

    `.mp4`: H.264 (x264 veryfast at `crf`), yuv420p, keyframes at most `gop` frames apart (default: one
    second). `.avi`: MPEG-4 part 2 at a nearly lossless fixed quantiser. The file appears under its name
    only when it is whole: it is written beside it and renamed.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    height, width = frames.shape[1:3]
    if path.suffix == ".mp4":
        # x264's macroblock tree changes its mind from run to run on pictures as small as 64 x 64: off
        codec, options = "libx264", {"preset": "veryfast", "crf": str(crf), "x264-params": "mbtree=0"}
    elif path.suffix == ".avi":
        codec, options = "mpeg4", {"qmin": "2", "qmax": "3"}
    else:
        raise ValueError(f"{path.name}: only .mp4 and .avi are written")
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # more threads change the bytes
        context.gop_size = gop or fps
        convert = VideoReformatter()
        for picture in frames:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            container.mux(stream.encode(convert.reformat(rgb, format="yuv420p", threads=1)))
        container.mux(stream.encode(None))
    os.replace(unfinished, path)
