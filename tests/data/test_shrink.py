from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data import images
from jaxvl.data.shrink import Job, even_window, shrink_one, shrink_videos, target_names
from jaxvl.data.video import index_video, load_clip
from tests.data import media_files as mf


def quiet(line):
    pass


def all_frames(path, fps, size=64, count=130):
    """Every frame that `load_clip` shows at this rate, as numbers, and the clip."""
    clip = load_clip(path, num_frames=count, image_size=size, sampling="uniform", fps=fps)
    return mf.counters(clip.frames[clip.mask]), clip


@pytest.mark.parametrize("fps", [3.0, 2.5, 29.97, 1 / 3])
@pytest.mark.parametrize("kind", ["good", "vfr", "ts", "avi", "rotated"])
def test_frame_i_is_what_the_original_shows_at_i_over_fps(media, tmp_path, kind, fps):
    source = getattr(media, kind)
    target = tmp_path / "sub" / "out.mp4"
    assert shrink_one(Job(source, str(target), 64, fps)) == 0
    wanted, original = all_frames(source, fps)
    for rate in (fps, None):  # at its own rate, and frame by frame
        got, small = all_frames(target, rate)
        assert got == wanted
    assert len(wanted) == max(1, int(index_video(source).duration * fps + 1e-6))
    np.testing.assert_array_equal(small.mask, original.mask)
    assert np.abs(small.frames.astype(int) - original.frames).mean() < 4
    assert [p.name for p in target.parent.iterdir()] == ["out.mp4"]
    with av.open(str(target)) as file:
        assert [s.type for s in file.streams] == ["video"]
        assert file.streams.video[0].codec_context.name == "h264"


def test_vfr_numbers_by_hand(media, tmp_path):
    """Frames appear at 0, 40, 80, 1000, 1040, 2500, 2540, 2580 and 4000 ms, the last until 4040 ms."""
    assert shrink_one(Job(media.vfr, str(tmp_path / "o.mp4"), 64, 2.0)) == 0
    assert all_frames(tmp_path / "o.mp4", None)[0] == [0, 2, 3, 4, 4, 5, 7, 7]


def test_clip_of_a_part_is_the_same_from_either(media, tmp_path):
    assert shrink_one(Job(media.good, str(tmp_path / "o.mp4"), 64, 3.0)) == 0
    part = {"num_frames": 12, "image_size": 64, "sampling": "uniform", "fps": 3.0, "start_s": 0.7, "end_s": 2.1}
    one, other = (load_clip(p, **part) for p in (media.good, tmp_path / "o.mp4"))
    assert mf.counters(one.frames) == mf.counters(other.frames)
    np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("square", [8, 10, 64])
def test_dropped_line_leaves_the_centre_crop(square):
    for width in range(square, square + 30):
        rows, columns = even_window(width, square, square)
        line = np.arange(width)
        left = images.crop_offsets(width, square, square)[0]
        kept = line[columns]
        assert len(kept) % 2 == 0
        assert width - len(kept) == width % 2
        again = images.crop_offsets(len(kept), square, square)[0]
        np.testing.assert_array_equal(kept[again : again + square], line[left : left + square])
        assert rows == slice(0, square)


def test_odd_sides_keep_the_centre(tmp_path):
    source = mf.write_video(tmp_path / "wide.mp4", 6, fps=3, width=150, height=64)  # 150 x 64 -> 75.0 -> 75 x 32
    assert shrink_one(Job(source, str(tmp_path / "o.mp4"), 32, 3.0)) == 0
    with av.open(str(tmp_path / "o.mp4")) as file:
        assert (file.streams.video[0].width, file.streams.video[0].height) == (74, 32)
    one, other = (all_frames(p, 3.0, 32)[1].frames.astype(int) for p in (source, tmp_path / "o.mp4"))
    shifted = np.abs(one[:, :, 1:] - other[:, :, :-1]).mean()
    assert np.abs(one - other).mean() < 6 < shifted


@pytest.fixture
def folder(tmp_path, media):
    top = tmp_path / "videos"
    (top / "a.b").mkdir(parents=True)
    for name, source in {"a.b/x.1.avi": media.avi, "y.mkv": media.mkv, "z.mp4": media.text, "w.mov": media.good,
                         "w.mp4": media.good}.items():  # fmt: skip
        shutil.copy(source, top / name)
    np.save(top / "n.npy", np.zeros((2, 8, 8, 3), np.uint8))
    return top


def paths_of(top):
    return [str(p) for p in sorted(top.rglob("*")) if p.is_file()]


def test_folder_is_shrunk_resumed_and_counted(folder, tmp_path):
    lines = []
    run = lambda **how: shrink_videos(folder, paths_of(folder), tmp_path / "small", say=lines.append, **how)  # noqa: E731
    done = run(short_side=32, processes=2)
    small = tmp_path / "small"
    names = sorted(str(p.relative_to(small)) for p in small.rglob("*") if p.is_file())
    assert names == ["a.b/x.1.mp4", "shrink.json", "w.mov.mp4", "w.mp4.mp4", "y.mp4"]
    assert (done.made, done.kept, done.other) == (4, 0, (str(folder / "n.npy"),))
    assert done.bad == ((str(folder / "z.mp4"), "not a video file, or cut off before its header"),)
    good = [p for p in paths_of(folder) if Path(p).name not in ("z.mp4", "n.npy")]
    assert done.before == sum(os.path.getsize(p) for p in good)
    assert done.after == sum(os.path.getsize(small / n) for n in names if n.endswith("mp4"))
    assert any(line.startswith("left out ") and "z.mp4: not a video file" in line for line in lines)
    assert "4 encoded now, 0 finished before, 1 could not be decoded" in "\n".join(done.table())

    stamps = {n: os.stat(small / n).st_mtime_ns for n in names}
    (small / "y.mp4").unlink()
    (small / ".y.mp4.partial").write_bytes(b"half")  # what a killed run leaves
    later = os.path.getmtime(small / "w.mov.mp4") + 60
    os.utime(folder / "w.mov", (later, later))
    again = run(short_side=32, processes=1)
    assert (again.made, again.kept, len(again.bad)) == (2, 2, 1)
    changed = {n for n in names if os.stat(small / n).st_mtime_ns != stamps[n]}
    assert changed == {"y.mp4", "w.mov.mp4"}
    assert not list(small.glob(".*"))
    with pytest.raises(InputError, match="shrunk with other settings"):
        run(short_side=64)


def test_wrong_settings_and_places(folder, tmp_path):
    run = lambda out, **how: shrink_videos(folder, paths_of(folder), out, say=quiet, **how)  # noqa: E731
    wrong = (({"short_side": 33}, "even"), ({"short_side": 0}, "at least 2"), ({"fps": 0}, "--fps 0"))
    for how, message in (*wrong, ({"fps": 1e-30}, "0.001 to 1000"), ({"fps": float("nan")}, "--fps nan")):
        with pytest.raises(InputError, match=message):
            run(tmp_path / "s", **how)
    for inside in (folder, folder / "small"):
        with pytest.raises(InputError, match="lies in the folder of the originals"):
            run(inside)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        run(tmp_path / "full")
    with pytest.raises(InputError, match="does not lie in"):
        target_names(folder, [str(tmp_path / "elsewhere.mp4")])
    with pytest.raises(InputError, match=r"none of the 1 videos can be decoded; first: .*z\.mp4: not a video"):
        shrink_videos(folder, [str(folder / "z.mp4")], tmp_path / "s1", say=quiet)
    with pytest.raises(InputError, match="only frames or arrays"):
        shrink_videos(folder, [str(folder / "n.npy")], tmp_path / "s2", say=quiet)
    assert not (tmp_path / "s").exists()
    (tmp_path / "plain").write_text("a file where a folder should be")
    (tmp_path / "s1" / "shrink.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="other settings"):
        shrink_videos(folder, [str(folder / "y.mkv")], tmp_path / "s1", say=quiet)
