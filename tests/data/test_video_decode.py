from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import video_decode
from jaxvl.data.images import crop_offsets, short_side_size
from jaxvl.data.sampling import multi_segment, uniform
from jaxvl.data.video import index_video, load_clip, pts_at, read_frames
from tests.data import media_files as mf


def sequential(path):
    """Every frame by plain sequential decoding, the reference for any recipe that skips."""
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("name", ["good", "vfr", "mkv", "ts", "mpg", "avi"])
@pytest.mark.parametrize("seed", range(3))
def test_any_pick_equals_sequential_decode(media, name, seed):
    path = getattr(media, name)
    index, every = index_video(path), sequential(path)
    assert index.num_frames == len(every)
    picks = np.random.default_rng(seed).integers(0, len(every), size=5)  # unsorted, with repeats
    got = read_frames(path, index.pts[picks], index)
    np.testing.assert_array_equal(got, every[picks])
    assert mf.counters(got) == picks.tolist()


class Demuxer:
    """Packets that say whether they were closed; being dropped does nothing, as with PyAV's own in its wheels."""

    def __init__(self, packets):
        self.packets, self.ended = packets, False

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.packets)
        except StopIteration:
            self.ended = True
            raise

    def close(self):
        self.packets.close()
        self.ended = True


class Watched:
    """A container that remembers its demuxers."""

    def __init__(self, container, demuxers):
        self.container, self.demuxers = container, demuxers

    def __getattr__(self, name):
        return getattr(self.container, name)

    def demux(self, *streams):
        self.demuxers.append(Demuxer(self.container.demux(*streams)))
        return self.demuxers[-1]


@pytest.mark.parametrize(("name", "picks", "demuxers"), [("good", [1, 12, 22], 3), ("vfr", [0], 1), ("avi", [0, 3], 1)])
def test_no_demuxer_is_left_open(media, name, picks, demuxers, monkeypatch):
    """A generator of PyAV's wheels that is dropped keeps its packet for good: a long run would grow."""
    path = getattr(media, name)
    index, found, opened = index_video(path), [], video_decode.opened

    @contextlib.contextmanager
    def watched(media):
        with opened(media) as (container, stream):
            yield Watched(container, found), stream

    monkeypatch.setattr(video_decode, "opened", watched)
    assert mf.counters(read_frames(path, index.pts[picks], index)) == picks
    assert [demuxer.ended for demuxer in found] == [True] * demuxers


def test_index_of_constant_rate(media):
    index = index_video(media.good)
    assert index.exact
    assert index.duration == pytest.approx(3.0)
    np.testing.assert_allclose(index.times, np.arange(24) / 8)
    np.testing.assert_allclose((index.keys - index.pts[0]) * index.time_base, np.array([0, 5, 10, 15, 20]) / 8)


def test_variable_rate_goes_by_time(media):
    index = index_video(media.vfr)
    np.testing.assert_allclose(index.times * 1000, media.vfr_ms, atol=0.5)
    asked = [0.0, 0.5, 0.99, 1.01, 2.4, 2.57, 3.9, 100.0, -3.0]
    shown = [0, 2, 2, 3, 4, 6, 7, 8, 0]
    assert mf.counters(read_frames(media.vfr, pts_at(index, asked), index)) == shown


def test_file_without_stamps_is_counted(media):
    index = index_video(media.avi)
    assert not index.exact
    assert index.pts.tolist() == list(range(12))
    assert index.duration == pytest.approx(2.0)


def test_longer_sound_is_no_truncation(media):
    assert index_video(media.mkv).duration == pytest.approx(2.0, abs=0.02)


def test_late_start_counts_from_the_first_frame(tmp_path):
    path = mf.write_video(tmp_path / "late.mkv", 5, times_ms=[5000, 5100, 5200, 5300, 5400])
    index = index_video(path)
    assert index.times.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert mf.counters(read_frames(path, pts_at(index, [0.25]), index)) == [2]


def test_lossless_cut_is_whole_and_starts_at_the_cut(tmp_path):
    whole = mf.write_video(tmp_path / "whole.mp4", 40, fps=10, gop=20)
    path = mf.trim_without_reencoding(whole, tmp_path / "cut.mp4", 1.5)
    index = index_video(path)
    assert index.num_frames == 25
    assert index.duration == pytest.approx(2.5)
    assert mf.counters(read_frames(path, pts_at(index, [0.0, 1.0, 2.4]), index)) == [15, 25, 39]


def test_resize_then_crop(media):
    index = index_video(media.good)
    whole = read_frames(media.good, index.pts[:1], index, short_side=32)[0]
    assert whole.shape == (32, 48, 3)
    crop = read_frames(media.good, index.pts[:1], index, short_side=32, center_crop=32)[0]
    np.testing.assert_array_equal(crop, whole[:, 8:40])
    original = Image.fromarray(read_frames(media.good, index.pts[:1], index)[0])
    pil = np.asarray(original.resize((48, 32), Image.Resampling.BICUBIC), int)
    assert np.abs(whole.astype(int) - pil).mean() < 4  # the same filter, on YUV instead of RGB
    np.testing.assert_allclose(crop[24, 8], mf.RED, atol=12)  # colour order is RGB
    np.testing.assert_allclose(crop[24, 24], mf.BLUE, atol=12)


def test_no_resize_where_the_short_side_fits(media):
    index = index_video(media.good)
    native = read_frames(media.good, index.pts[3:4], index)
    np.testing.assert_array_equal(read_frames(media.good, index.pts[3:4], index, short_side=64), native)


@pytest.mark.parametrize(
    ("w", "h", "r", "size"),
    [(320, 240, 224, (298, 224)), (240, 320, 224, (224, 298)), (100, 100, 7, (7, 7)), (3, 2, 3, (4, 3))],
)
def test_long_side_is_truncated(w, h, r, size):
    assert short_side_size(w, h, r) == size


@pytest.mark.parametrize(("extra", "offset"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)])
def test_crop_offset_rounds_half_to_even(extra, offset):
    assert crop_offsets(10 + extra, 10, 10) == (offset, 0)


def test_rotation_tag_is_honoured(media):
    index = index_video(media.rotated)
    got = read_frames(media.rotated, index.pts[:3], index)
    assert got.shape == (3, 96, 64, 3)
    np.testing.assert_array_equal(got, np.rot90(sequential(media.rotated)[:3], -1, axes=(1, 2)))
    assert load_clip(media.rotated, num_frames=2, image_size=32, sampling="uniform").frames.shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "file is missing"),
        ("folder", "is a folder"),
        ("empty", "0 bytes"),
        ("text", "not a video file"),
        ("headless", "cut off before its header"),
        ("audio", "no video stream"),
        ("truncated", "truncated: "),
        ("mkv_truncated", "truncated: "),
    ],
)
def test_bad_files_say_why(media, name, reason):
    path = str(getattr(media, name))
    with pytest.raises(BadMedia) as error:
        index_video(path)
    assert error.value.path == path
    assert reason in error.value.reason
    assert pickle.loads(pickle.dumps(error.value)).reason == error.value.reason


def test_damage_after_indexing_is_bad_media(media, tmp_path):
    path = str(tmp_path / "hurt.mp4")
    data = bytearray(Path(media.good).read_bytes())
    begin = data.index(b"mdat") + 4
    index = index_video(media.good)
    data[begin + 800 : begin + 3000] = b"\xff" * 2200
    Path(path).write_bytes(data)
    with pytest.raises(BadMedia, match=r"hurt\.mp4"):
        read_frames(path, index.pts, index)


def test_a_colon_in_a_relative_name_is_no_protocol(media, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(media.good, "a:b.mp4")
    assert index_video("a:b.mp4").num_frames == 24


def test_files_are_closed(media):
    before = len(os.listdir("/proc/self/fd"))
    for path in [media.good, media.audio, media.truncated] * 5:
        try:
            index_video(path)
        except BadMedia:
            continue
    assert len(os.listdir("/proc/self/fd")) <= before


def test_clip_over_real_frames(media):
    clip = load_clip(media.good, num_frames=6, image_size=32, sampling="uniform")
    assert mf.counters(clip.frames) == uniform(6, 24).tolist()
    np.testing.assert_allclose(clip.times, uniform(6, 24) / 8)
    assert clip.mask.all()


def test_clip_at_a_virtual_rate(media):
    # 3 s at 3 frames a second: 9 virtual frames, at i/3 s, where the video of 8 frames a second shows int(8i/3).
    clip = load_clip(media.good, num_frames=9, image_size=32, sampling="uniform", fps=3.0)
    assert mf.counters(clip.frames) == [0, 2, 5, 8, 10, 13, 16, 18, 21]
    short = load_clip(media.good, num_frames=12, image_size=32, sampling="uniform", fps=3.0)
    assert mf.counters(short.frames) == [0, 2, 5, 8, 10, 13, 16, 18, 21, 21, 21, 21]
    assert short.mask.tolist() == [True] * 9 + [False] * 3


def test_clip_on_variable_rate_at_a_virtual_rate(media):
    clip = load_clip(media.vfr, num_frames=4, image_size=32, sampling="uniform", fps=1.0)
    assert mf.counters(clip.frames) == [0, 3, 4, 7]


def test_clip_range(media):
    # CenterCLIP's rule: virtual frames int(start * fps) .. int(end * fps), both included.
    clip = load_clip(media.good, num_frames=4, image_size=32, sampling="uniform", fps=3.0, start_s=1.0, end_s=2.0)
    assert mf.counters(clip.frames) == [8, 10, 13, 16]
    native = load_clip(media.good, num_frames=9, image_size=32, sampling="uniform", start_s=1.0, end_s=2.0)
    assert mf.counters(native.frames) == list(range(8, 17))
    beyond = load_clip(media.good, num_frames=4, image_size=32, sampling="uniform", fps=3.0, start_s=2.0, end_s=99.0)
    assert mf.counters(beyond.frames) == [16, 18, 21, 21]
    assert beyond.mask.tolist() == [True, True, True, False]
    with pytest.raises(BadMedia, match=r"ends at 3\.00 s"):
        load_clip(media.good, num_frames=4, image_size=32, sampling="uniform", fps=3.0, start_s=7.0, end_s=9.0)
    with pytest.raises(InputError, match="inverted"):
        load_clip(media.good, num_frames=4, image_size=32, sampling="uniform", start_s=2.0, end_s=1.0)


def test_random_sampling_is_a_function_of_the_generator(media):
    draw = lambda seed: mf.counters(  # noqa: E731
        load_clip(media.good, num_frames=6, image_size=32, sampling="official", rng=np.random.default_rng(seed)).frames
    )
    assert draw(1) == draw(1) == multi_segment(6, 24, np.random.default_rng(1)).tolist()
    assert draw(1) != draw(2)


def test_folder_of_frames_sorts_by_number(tmp_path):
    for i in range(12):
        Image.fromarray(mf.counter_frame(i)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip = load_clip(tmp_path, num_frames=12, image_size=32, sampling="uniform", fps=4.0)
    assert mf.counters(clip.frames) == list(range(12))
    np.testing.assert_allclose(clip.times, np.arange(12) / 4)
    part = load_clip(tmp_path, num_frames=3, image_size=32, sampling="uniform", fps=4.0, start_s=1.0, end_s=1.5)
    assert mf.counters(part.frames) == [4, 5, 6]
    with pytest.raises(InputError, match="set fps"):
        load_clip(tmp_path, num_frames=3, image_size=32, sampling="uniform", start_s=1.0, end_s=1.5)


def test_arrays(tmp_path):
    frames = np.stack([mf.counter_frame(i) for i in range(7)])
    np.save(tmp_path / "a.npy", frames)
    np.savez(tmp_path / "b.npz", frames=frames, other=np.zeros(2))
    for name in ("a.npy", "b.npz"):
        clip = load_clip(tmp_path / name, num_frames=3, image_size=64, sampling="uniform")
        np.testing.assert_array_equal(clip.frames, frames[uniform(3, 7)])


def test_bad_folders_and_arrays(tmp_path):
    (tmp_path / "none").mkdir()
    np.save(tmp_path / "float.npy", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "two.npz", x=np.zeros(1), y=np.zeros(1))
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    for name, reason in {
        "none": "no picture",
        "float.npy": "float64",
        "two.npz": "x, y",
        "pickled.npy": "not a readable",
        "text.npy": "not a readable",
        "text.npz": "not a readable",
        "gone.npy": "missing",
    }.items():
        with pytest.raises(BadMedia, match=reason):
            load_clip(tmp_path / name, num_frames=2, image_size=4, sampling="uniform")


def test_worker_modules_do_not_import_jax():
    code = (
        "import sys, jaxvl.data.video, jaxvl.data.sampling, jaxvl.data.images, jaxvl.data.readers.retrieval.msrvtt, "
        "jaxvl.data.readers.retrieval.msvd, jaxvl.data.records, jaxvl.data.pipeline; "
        "sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ, PYTHONPATH=os.getcwd())).returncode == 0


def test_avi_with_left_out_frames_keeps_its_times(tmp_path):
    """AVI counts frame slots; a slot without a frame repeats the one before, so times are those of the slots."""
    slots = [0, 3, 4, 9, 14]
    path = str(tmp_path / "gaps.avi")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.max_b_frames = 0
        for number, slot in enumerate(slots):
            frame = av.VideoFrame.from_ndarray(mf.counter_frame(number), format="rgb24")
            frame.pts, frame.time_base = slot, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    index = index_video(path)
    np.testing.assert_allclose(index.times, np.array(slots) / 10)
    assert index.duration == pytest.approx(1.5)
    wanted = pts_at(index, [0.0, 0.25, 0.3, 0.85, 0.9, 1.4])
    assert mf.counters(read_frames(path, wanted, index)) == [0, 0, 1, 2, 3, 4]
