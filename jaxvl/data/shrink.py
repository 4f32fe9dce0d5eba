"""Videos encoded anew, small: short side N, constant frame rate, no sound. For disks full of video.

Frame i of the small file is the frame of the original that is on screen at i / fps, chosen by time stamps as
`video.load_clip(fps=...)` chooses it, and its pixels are those `load_clip` would have asked for before the crop. So
training at that rate and size from either file is the same but for one more lossy step.

Nothing here may import jax: the work is done in processes of their own.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import images, lmdb_source
from jaxvl.data.frames import ARRAY_ENDINGS
from jaxvl.data.left_out import LeftOut
from jaxvl.data.readers.common import first_few, read_json
from jaxvl.data.video import index_video, pts_at, visit_frames

SETTINGS_FILE = "shrink.json"
VERSION = 1
CRF = 18


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to shrink, and where to."""

    source: str
    target: str
    short_side: int
    fps: float


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """What became of the videos.

    made, kept: files encoded now, files that stood finished. before, after: bytes of those, original and small.
    bad: `(path, reason)` of media that cannot be decoded. other: media that are no video files, left as they are.
    """

    made: int
    kept: int
    before: int
    after: int
    bad: tuple[tuple[str, str], ...]
    other: tuple[str, ...]

    def table(self) -> list[str]:
        """Lines to print."""
        ratio = f"  ({self.before / self.after:.1f} times smaller)" if self.after else ""
        lines = [
            f"{'':10}{'files':>10}{'MiB':>14}",
            f"{'before':10}{self.made + self.kept:>10,}{self.before / 2**20:>14,.1f}",
            f"{'after':10}{self.made + self.kept:>10,}{self.after / 2**20:>14,.1f}{ratio}",
            f"{self.made:,} encoded now, {self.kept:,} finished before, {len(self.bad):,} could not be decoded",
        ]
        if self.other:
            names = first_few([os.path.basename(path) for path in self.other])
            lines.append(f"{len(self.other):,} folders of frames or array files left as they are ({names})")
        return lines


def shrink_videos(
    videos: str | os.PathLike,
    paths: Sequence[str],
    out: str | os.PathLike,
    *,
    short_side: int = 224,
    fps: float = 3.0,
    processes: int | None = None,
    say: Callable[[str], None] = print,
) -> Shrunk:
    """Encodes the files `paths` under the folder (or LMDB) `videos` to `OUT/<the same relative name>.mp4`.

    A name whose `.mp4` two files would share keeps its own ending before it (`a.mov.mp4`). short_side: pixels,
    even; the other side is made even by dropping a line (smaller videos are enlarged, as for training).
    processes: default one a core; they are spawned, so a script needs a `__main__` guard. A file appears under its
    name only when it is whole, so the same call again goes on where one was killed; a file older than its original
    is made again.
    Raises InputError: settings out of range, `out` holds files of other settings or is (in) the folder of the
    originals, a path outside `videos`, no video could be decoded.
    """
    top, folder = Path(videos), Path(out)
    if short_side < 2 or short_side % 2:
        raise InputError(f"--short-side {short_side}: must be even and at least 2 (H.264 stores colour by halves)")
    if not 1e-3 <= fps <= 1000:
        raise InputError(f"--fps {fps:g}: must be 0.001 to 1000 frames a second")
    if folder.resolve() == top.resolve() or top.resolve() in folder.resolve().parents:
        raise InputError(f"--shrink {folder}: lies in the folder of the originals, {top}; choose one outside")
    other = [p for p in paths if os.path.isdir(p) or p.lower().endswith(ARRAY_ENDINGS)]
    originals = [p for p in paths if p not in set(other)]
    if not originals:
        raise InputError(f"{top}: holds no video file to shrink, only frames or arrays")
    targets = target_names(top, originals)
    _claim(folder, {"version": VERSION, "short_side": short_side, "fps": float(fps), "crf": CRF})
    jobs = [Job(p, str(folder / targets[p]), short_side, float(fps)) for p in originals]
    todo = [job for job in jobs if not _finished(job)]
    bad, step, late = [], max(1, len(todo) // 20), LeftOut()
    for number, (job, outcome) in enumerate(_run(todo, processes or os.cpu_count() or 1), 1):
        if isinstance(outcome, BadMedia):
            bad.append((job.source, outcome.reason))
            say(f"left out {outcome}")
        elif outcome:
            late.files[job.source] = outcome
        if number % step == 0:
            say(f"shrinking: {number:,} of {len(todo):,}")
    late.tell(say)
    failed = {path for path, _ in bad}
    done = [job for job in jobs if job.source not in failed]
    if not done:
        raise InputError(f"{top}: none of the {len(jobs)} videos can be decoded; first: {': '.join(bad[0])}")
    before, after = sum(_size(j.source) for j in done), sum(os.path.getsize(j.target) for j in done)
    return Shrunk(len(todo) - len(bad), len(jobs) - len(todo), before, after, tuple(bad), tuple(other))


def shrink_one(job: Job) -> BadMedia | int:
    """Encodes one video; runs in a worker. Returns how many of its packets no player can show, or what is wrong with
    the file instead of raising it.

    Raises InputError where the new file cannot be written (the disk is full)."""
    target = Path(job.target)
    unfinished = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        inside = lmdb_source.split_path(job.source)
        media = job.source if inside is None else lmdb_source.read_video(job.source)
        index = index_video(media)
        count = max(1, int(index.duration * job.fps + 1e-6))  # as `load_clip` counts
        shown = pts_at(index, np.arange(count) / job.fps)
        repeats = collections.Counter(shown.tolist())
        with _Writer(job, unfinished) as writer:
            visit = lambda pts, picture: writer.write(picture, repeats[pts])  # noqa: E731
            visit_frames(media, shown, index, visit, short_side=job.short_side)
    except BadMedia as bad:
        unfinished.unlink(missing_ok=True)
        return bad
    except av.error.FFmpegError as error:  # of the writing: `visit_frames` makes BadMedia of the reading's
        unfinished.unlink(missing_ok=True)
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    os.replace(unfinished, target)
    return index.left_out


def even_window(width: int, height: int, square: int) -> tuple[slice, slice]:
    """`(rows, columns)` that make both sides even by dropping at most one line each.

    The line is dropped on the side that leaves the centre crop of `square` pixels where it was.
    """

    def window(side: int) -> slice:
        if side % 2 == 0:
            return slice(0, side)
        first = images.crop_offsets(side, side, square)[0] - images.crop_offsets(side - 1, side - 1, square)[0]
        return slice(first, first + side - 1)

    return window(height), window(width)


def target_names(top: Path, paths: Sequence[str]) -> dict[str, str]:
    """Path -> name below the new folder. Raises InputError where a path does not lie under `top`."""
    relative = {}
    for path in paths:
        name = os.path.relpath(os.path.abspath(path), os.path.abspath(top))
        if name.split(os.sep)[0] == os.pardir:
            raise InputError(f"{path}: does not lie in {top}, so it has no place in the new folder")
        relative[path] = name
    stem = {path: os.path.splitext(name)[0] for path, name in relative.items()}
    shared = collections.Counter(stem.values())
    return {path: (stem[path] if shared[stem[path]] == 1 else relative[path]) + ".mp4" for path in paths}


def _claim(folder: Path, settings: dict) -> None:
    """Makes `folder` the place of files with these settings, or refuses one of others."""
    file = folder / SETTINGS_FILE
    if file.exists():
        there = read_json(file, "the settings of the shrunk videos")
        if there != settings:
            raise InputError(f"{folder}: holds videos shrunk with other settings ({there}); choose another folder")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--shrink {folder}: holds other files (no {SETTINGS_FILE}); choose an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(json.dumps(settings) + "\n")
    os.replace(unfinished, file)


def _finished(job: Job) -> bool:
    """Whether the small file is there and not older than its original."""
    if not os.path.exists(job.target):
        return False
    return not os.path.exists(job.source) or os.path.getmtime(job.target) >= os.path.getmtime(job.source)


def _size(source: str) -> int:
    inside = lmdb_source.split_path(source)
    return os.path.getsize(source) if inside is None else len(lmdb_source.read_video(source).data)


def _run(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, BadMedia | int]]:
    """Every job with what `shrink_one` gives, in the order in which they end."""
    if min(processes, len(jobs)) <= 1:
        yield from ((job, shrink_one(job)) for job in jobs)
        return
    # spawned, not forked: the caller may hold threads and open media
    spawn = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(min(processes, len(jobs)), spawn, initializer=_leave_interrupts_to_the_parent)
    try:
        running = {pool.submit(shrink_one, job): job for job in jobs}
        for future in futures.as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a process that encoded videos was killed (out of memory?); finished files are kept: run the same "
            "command again, with fewer --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Writer:
    """H.264 at a constant rate; the size is that of the first picture, made even."""

    def __init__(self, job: Job, path: Path):
        self.job, self.path = job, path
        self.rate = Fraction(job.fps).limit_denominator(100_000)
        self.stream, self.shape, self.count, self.convert = None, (), 0, VideoReformatter()

    def __enter__(self) -> _Writer:
        self.container = av.open(str(self.path), "w", format="mp4")
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()

    def write(self, picture: np.ndarray, times: int) -> None:
        """Appends `picture` `[H, W, 3]` `times` times. Raises BadMedia where it has another size than the first."""
        if self.stream is None:
            self._start(*picture.shape[:2])
        if picture.shape != self.shape:
            raise BadMedia(self.job.source, f"frames of different sizes: {self.shape[:2]} and {picture.shape[:2]}")
        rows, columns = even_window(self.shape[1], self.shape[0], self.job.short_side)
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[rows, columns]), "rgb24")
        frame = self.convert.reformat(rgb, format="yuv420p", threads=1)
        frame.time_base = 1 / self.rate
        for _ in range(times):
            frame.pts = self.count
            self.count += 1
            try:
                self.container.mux(self.stream.encode(frame))
            except av.error.FFmpegError as error:  # not to be taken for an error of the original
                raise InputError(f"{self.job.target}: cannot be written: {error.strerror or error}") from error

    def _start(self, height: int, width: int) -> None:
        rows, columns = even_window(width, height, self.job.short_side)
        self.shape = (height, width, 3)
        options = {"preset": "fast", "crf": str(CRF)}
        self.stream = self.container.add_stream("libx264", rate=self.rate, options=options)
        self.stream.width, self.stream.height = columns.stop - columns.start, rows.stop - rows.start
        self.stream.pix_fmt = "yuv420p"
        context = self.stream.codec_context
        context.thread_count = 1  # one process a core already
        context.time_base = 1 / self.rate
        context.gop_size = max(12, round(4 * self.rate))  # a jump decodes four seconds at most
