"""Boxes of what moves before a camera that stands still, as a detector writes them (MOT text).

    python tools/moving_boxes.py VIDEO det.txt

A stand-in for a detector of your own, to try `jaxvl predict --detections` on: pixels that differ from their median over
the video are foreground, and a connected piece of it that is large enough is a box. People who meet are one box, and
who stands still has none.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from jaxvl.data.video import open_source
from jaxvl.methods.utt.following import visit_source

SAMPLED = 60
"""Frames of the median."""
DIFFERS, LEAST = 30, 0.001
"""Grey levels from which a pixel is foreground; pixels of the picture that a box has at least, as a share."""


def moving_boxes(video: str) -> list[tuple[int, int, int, int, int]]:
    """`(frame from 1, left, top, width, height)` of every frame's boxes."""
    source = open_source(video, None)
    grey: list[np.ndarray] = []
    keep = lambda _, picture: grey.append(picture.mean(-1).astype(np.uint8))  # noqa: E731
    visit_source(source, np.arange(len(source.times)), keep)
    empty = np.median(grey[:: max(1, len(grey) // SAMPLED)], axis=0)
    rows = []
    for number, frame in enumerate(grey, 1):
        moving = ndimage.binary_dilation(ndimage.binary_opening(abs(frame - empty) > DIFFERS), iterations=3)
        pieces, _ = ndimage.label(moving)
        for index, (y, x) in enumerate(ndimage.find_objects(pieces), 1):
            if (pieces[y, x] == index).sum() >= LEAST * frame.size:
                rows.append((number, x.start, y.start, x.stop - x.start, y.stop - y.start))
    return rows


def main() -> None:
    """Writes the file."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    rows = moving_boxes(sys.argv[1])
    lines = [f"{f},-1,{x},{y},{w},{h},1,-1,-1,-1\n" for f, x, y, w, h in rows]
    Path(sys.argv[2]).write_text("".join(lines), encoding="utf-8")
    print(f"{len(rows)} boxes in {sys.argv[2]}")


if __name__ == "__main__":
    main()
