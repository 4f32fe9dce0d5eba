"""The promise of the decoder: a frame asked for alone is the frame of a sequential decode, or the file is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia
from jaxvl.data.lmdb_source import EncodedVideo
from jaxvl.data.video import index_video, load_clip, pts_at, read_frames
from tests.data import media_files as mf

CONTAINERS = ["mp4", "mov", "mkv", "webm", "avi", "ts", "flv", "wmv", "gif", "ogv", "mpg", "nut", "mxf", "h264"]
CONTAINERS += ["rm", "apng", "dv"]
# Encoders of still pictures, of hardware's own formats, and of nothing.
NO_VIDEO = {"a64multi", "a64multi5", "alias_pix", "bitpacked", "bmp", "cljr", "dpx", "exr", "fits", "hdr", "pam", "pbm"}
NO_VIDEO |= {"pcx", "pfm", "pgm", "pgmyuv", "phm", "ppm", "qoi", "sgi", "sunrast", "targa", "tiff", "vbn", "vnull"}
NO_VIDEO |= {"wbmp", "wrapped_avframe", "xbm", "xface", "xwd", "pdv"}
SIZES = {"h261": (176, 144), "h263": (176, 144), "dvvideo": (720, 576), "dnxhd": (256, 120)}
# Palettes, which swscale does not make; roq takes one rate; FFmpeg does not read its animated WebP back.
UNWRITTEN = {"msrle", "smc", "roqvideo", "libwebp", "libwebp_anim"}
LONG = ("libx264", "libx265", "mpeg4", "mpeg2video", "libvpx", "libvpx-vp9", "libsvtav1")
QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"}}
QUIET["dnxhd"] = {"profile": "dnxhr_lb"}
QUIET["libvpx"] = QUIET["libvpx-vp9"] = {"deadline": "realtime", "cpu-used": "8"}


def encoders() -> list[str]:
    """Every software encoder of videos in this build of FFmpeg."""
    found = []
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            continue
        kind = codec.type == "video" and name not in NO_VIDEO
        if kind and codec.name == name and not name.endswith(("_nvenc", "_qsv", "_amf", "_v4l2m2m")):
            found.append(name)
    return found


def written(path, codec, count=9, **options) -> str | None:
    """A numbered video, None where this codec does not go into this container."""
    try:
        encoder = QUIET.get(codec, {}) | options.pop("encoder", {})
        width, height = SIZES.get(codec, (64, 64))
        size = {"width": width, "height": height}
        return mf.write_video(path, count, fps=25, codec=codec, encoder=encoder, **size | options)
    except (av.error.FFmpegError, ValueError):
        return None


def sequential(path) -> list[np.ndarray]:
    """Every frame by plain decoding; empty where FFmpeg itself cannot, or finds damage in what it wrote."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            frames = [f for p in container.demux(stream) for f in p.decode()]
            return [] if any(f.is_corrupt for f in frames) else [f.to_ndarray(format="rgb24") for f in frames]
    except (av.error.FFmpegError, IndexError, AttributeError):  # no stream, or no decoder for it
        return []


def agree(path, every, picks) -> None:
    index = index_video(path)
    assert index.num_frames == len(every), path
    assert (np.diff(index.times) >= 0).all()
    for pick in picks:
        got = read_frames(path, index.pts[pick], index)
        assert all(np.array_equal(frame, every[i]) for i, frame in zip(pick, got)), (path, pick)


@pytest.mark.parametrize("codec", encoders())
def test_a_frame_alone_is_the_frame_of_a_sequential_decode(tmp_path, codec):
    tried = 0
    for ending in CONTAINERS:
        for gop, bframes in ((4, 0), (4, 2)) if codec in LONG[:4] else ((4, 0),):
            path = written(tmp_path / f"{gop}{bframes}.{ending}", codec, gop=gop, bframes=bframes)
            every = sequential(path) if path else []
            if every:
                tried += 1
                agree(path, every, [[i] for i in range(len(every))])
    assert (tried == 0) == (codec in UNWRITTEN)


@pytest.mark.parametrize("codec", LONG)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_any_access_pattern(tmp_path, codec, ending):
    kinds = [{}]
    if codec == "libx264":
        kinds += [
            {"x264-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:b-pyramid=normal"},
            {"intra-refresh": "1"},
        ]
    if codec == "libx265":
        kinds += [{"x265-params": "log-level=none:open-gop=1:keyint=8:min-keyint=8:bframes=3"}]
    if codec in ("libvpx", "libvpx-vp9"):
        kinds += [{"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}]
    rng = np.random.default_rng(0)
    for number, encoder in enumerate(kinds):
        path = written(tmp_path / f"{number}.{ending}", codec, 40, gop=8, encoder=encoder)
        every = sequential(path) if path else []
        if every:
            agree(path, every, [rng.integers(0, 40, 5) for _ in range(4)] + [[39], [8], [7], [0, 39]])
            assert mf.counters(np.stack(every)) == list(range(40))


def test_key_marks_that_lie_lead_to_no_wrong_frame(tmp_path):
    """A file whose every packet is marked as a key frame: decoding that begins at one shows grey."""

    def marked(k, packet):
        packet.is_keyframe = True

    for codec in ("mpeg4", "libx264"):
        whole = mf.write_video(tmp_path / "a.mkv", 30, codec=codec, gop=10, bframes=0)
        path = mf.copy_packets(whole, tmp_path / f"{codec}.mkv", marked)
        agree(path, sequential(path), [[i] for i in range(30)])


def test_bytes_in_memory_are_read_as_the_file(tmp_path):
    path = mf.write_video(tmp_path / "a.ts", 12, gop=4)
    media = EncodedVideo("inside", Path(path).read_bytes())
    index = index_video(media)
    assert mf.counters(read_frames(media, index.pts[[11, 5]], index)) == [11, 5]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "flv"])
def test_two_frames_of_one_stamp_keep_all_times(tmp_path, ending):
    times = [0, 1000, 2000, 3000, 3040, 3080, 3120, 3160]
    path = mf.write_video(tmp_path / "a.mkv", 8, times_ms=times, gop=4, bframes=0)

    def twin(k, packet):
        if k == 5:
            packet.pts = packet.dts = packet.pts - round(0.04 / float(packet.time_base))

    if ending == "mp4":
        path = mf.write_video(tmp_path / "b.mp4", 8, times_ms=times, gop=4, bframes=0)
        data = Path(path).read_bytes()
        where = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"]
        at, size = mf.find_box(data, *where)
        runs = np.frombuffer(data[at + 16 : at + size], ">u4").reshape(-1, 2)
        deltas = np.repeat(runs[:, 1], runs[:, 0]).tolist()
        deltas[4], deltas[5] = 0, deltas[4] + deltas[5]
        body = struct.pack(">II", 0, len(deltas)) + b"".join(struct.pack(">II", 1, d) for d in deltas)
        data = bytearray(data[:at] + struct.pack(">I", 8 + len(body)) + b"stts" + body + data[at + size :])
        for depth in range(1, len(where)):
            place, old = mf.find_box(data, *where[:depth])
            data[place : place + 4] = struct.pack(">I", old + 8 + len(body) - size)
        path = str(tmp_path / "twin.mp4")
        Path(path).write_bytes(data)
    else:
        path = mf.copy_packets(path, tmp_path / f"twin.{ending}", twin)
    index = index_video(path)
    np.testing.assert_allclose(index.times[:8] * 1000, [*times[:5], 3040, *times[6:]], atol=1)
    # Of the two, the later one stays on the screen.
    assert mf.counters(read_frames(path, pts_at(index, [0.5, 2.9, 3.05, 3.13]), index)) == [0, 2, 5, 6]


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("ts", "libx264"),
        ("mkv", "libx264"),
        ("mp4", "libx264"),
        ("flv", "flv"),
        ("mpg", "mpeg2video"),
        ("webm", "libvpx"),
        ("ts", "libx265"),
        ("mkv", "mpeg4"),
        ("wmv", "wmv2"),
    ],
)
def test_a_stream_begins_at_its_first_key_frame(tmp_path, ending, codec):
    whole = written(tmp_path / f"whole.{ending}", codec, 24, gop=8, bframes=0)
    path = mf.copy_packets(whole, tmp_path / f"late.{ending}", lambda k, packet: k >= 3)
    index = index_video(path)
    assert mf.counters(read_frames(path, index.pts, index)) == list(range(8, 24))
    assert index.left_out == 5
    assert index.times[0] == 0
    assert index.duration == pytest.approx(16 / 25, abs=0.05)


@pytest.mark.parametrize("ending", ["ts", "mpg", "flv"])
def test_joined_streams_go_on_where_stamps_begin_anew(tmp_path, ending):
    codec = "mpeg2video" if ending == "mpg" else "libx264"
    parts = [written(tmp_path / f"{n}.{ending}", codec, 10, gop=5, bframes=0, start=10 * n) for n in range(2)]
    first, second = (Path(p).read_bytes() for p in parts)
    path = tmp_path / f"both.{ending}"
    path.write_bytes(first + (second[13:] if ending == "flv" else second))
    index = index_video(path)
    np.testing.assert_allclose(index.times, np.arange(20) / 25, atol=2e-3)
    assert mf.counters(read_frames(path, pts_at(index, [0.1, 0.5, 0.79]), index)) == [2, 12, 19]


QUARTERS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize(("a", "b", "c", "d"), QUARTERS + MIRRORED)
def test_the_display_matrix_turns_and_mirrors(tmp_path, a, b, c, d):
    path = tmp_path / "a.mp4"
    data = bytearray(Path(mf.write_video(path, 2, width=96, height=64)).read_bytes())
    at, _ = mf.find_box(data, b"moov", b"trak", b"tkhd")
    moved = (96 if a < 0 else 64 if c < 0 else 0, 96 if b < 0 else 64 if d < 0 else 0)
    entries = [v << 16 for v in (a, b)] + [0] + [v << 16 for v in (c, d)] + [0] + [v << 16 for v in moved] + [1 << 30]
    data[at + 48 : at + 84] = struct.pack(">9i", *entries)
    path.write_bytes(data)
    index, stored = index_video(path), sequential(path)[0]
    # Pixel (x, y), at its centre, goes to (a x + c y + tx, b x + d y + ty).
    right = np.zeros((64, 96, 3) if a else (96, 64, 3), np.uint8)
    y, x = np.mgrid[:64, :96] + 0.5
    right[np.floor(b * x + d * y + moved[1]).astype(int), np.floor(a * x + c * y + moved[0]).astype(int)] = stored
    np.testing.assert_array_equal(read_frames(path, index.pts[:1], index)[0], right)


@pytest.mark.parametrize("shown", [8, 20, 30, 39])
def test_an_edit_list_that_cuts_the_end_is_no_truncation(tmp_path, shown):
    data = bytearray(Path(mf.write_video(tmp_path / "a.mp4", 40, fps=10, gop=10)).read_bytes())
    at, _ = mf.find_box(data, b"moov", b"trak", b"edts", b"elst")
    data[at + 16 : at + 20] = struct.pack(">I", shown * 100)
    (tmp_path / "cut.mp4").write_bytes(data)
    index = index_video(tmp_path / "cut.mp4")
    assert index.num_frames - shown in (0, 1)  # players show the frame that begins as the edit ends, or not
    assert mf.counters(read_frames(tmp_path / "cut.mp4", index.pts, index)) == list(range(index.num_frames))


@pytest.mark.parametrize("ending", ["mkv", "avi"])
def test_a_header_that_promises_too_much_is_no_truncation(tmp_path, ending):
    path = Path(mf.write_video(tmp_path / f"a.{ending}", 20, fps=10, codec="mpeg4", bframes=0))
    data = bytearray(path.read_bytes())
    if ending == "mkv":
        at = data.index(b"\x44\x89\x88") + 3  # Duration, a float of eight bytes
        data[at : at + 8] = struct.pack(">d", 9000.0)
        at = data.index(b"\xbf\x84", data.index(b"\x15\x49\xa9\x66"))
        data[at : at + 6] = b"\xec\x84\0\0\0\0"  # the checksum of what was changed becomes padding
    else:
        for name, offset in ((b"avih", 24), (b"strh", 40)):  # frames, length
            at = data.index(name) + offset
            data[at : at + 4] = struct.pack("<I", 90)
    path.write_bytes(data)
    index = index_video(path)
    assert index.num_frames == 20
    assert index.duration == pytest.approx(2.0, abs=0.05)


def test_a_new_frame_size_on_the_way(tmp_path):
    one = mf.write_video(tmp_path / "a.ts", 8, fps=10, gop=4, bframes=0)
    two = mf.write_video(tmp_path / "b.ts", 8, fps=10, gop=4, bframes=0, width=96, height=48, start=8)
    path = tmp_path / "both.ts"
    path.write_bytes(Path(one).read_bytes() + Path(two).read_bytes())
    clip = load_clip(path, num_frames=16, image_size=32, sampling="uniform")
    assert mf.counters(clip.frames) == list(range(16))
    index = index_video(path)
    with pytest.raises(BadMedia, match="change their size"):
        read_frames(path, index.pts, index)


DAMAGE = {
    "tail": lambda d: d[: len(d) * 7 // 10],
    "end": lambda d: d[:-20],
    "middle": lambda d: d[: len(d) // 2] + d[len(d) * 3 // 4 :],
    "few": lambda d: d[: len(d) // 2] + d[len(d) // 2 + 7 :],
    "zeros": lambda d: d[: len(d) // 2] + bytes(len(d) // 4) + d[len(d) // 2 + len(d) // 4 :],
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mkv", "libx264"),
        ("webm", "libvpx"),
        ("gif", "gif"),
        ("avi", "mpeg4"),
        ("mp4", "libx264"),
        ("flv", "flv"),
        ("ogv", "libvpx"),
        ("wmv", "wmv2"),
        ("mpg", "mpeg2video"),
        ("mxf", "mpeg2video"),
        ("nut", "ffv1"),
    ],
)
def test_a_file_with_a_part_missing_is_not_read_shorter(tmp_path, ending, codec, how):
    data = Path(written(tmp_path / f"a.{ending}", codec, 40, gop=10, bframes=0)).read_bytes()
    path = tmp_path / f"b.{ending}"
    path.write_bytes(DAMAGE[how](data))
    shown, reason = shown_or_reason(path)
    assert shown == list(range(40)) or reason, (shown, reason)  # all shown: what is missing was no picture


def shown_or_reason(path, picks=None) -> tuple[list[int], str]:
    try:
        index = index_video(path)
        return mf.counters(read_frames(path, index.pts if picks is None else index.pts[picks], index)), ""
    except BadMedia as bad:
        return [], bad.reason


def test_packets_missing_in_a_broadcast(tmp_path):
    data = Path(mf.write_video(tmp_path / "a.ts", 40, gop=10, bframes=0)).read_bytes()
    half = len(data) // 188 // 2 * 188
    (tmp_path / "b.ts").write_bytes(data[:half] + data[half + 10 * 188 :])
    with pytest.raises(BadMedia, match="packets are missing"):
        index_video(tmp_path / "b.ts")


def test_what_follows_a_damaged_picture_is_refused_up_to_the_next_key_frame(tmp_path):
    path = tmp_path / "a.mp4"
    data = bytearray(Path(mf.write_video(path, 30, gop=10, bframes=0)).read_bytes())
    index = index_video(path)
    with av.open(str(path)) as container:
        hurt = next(p for p in container.demux(video=0) if p.pts == index.pts[12])
        data[hurt.pos + 12 : hurt.pos + hurt.size] = b"\x55" * (hurt.size - 12)
    path.write_bytes(data)
    alone = [shown_or_reason(path, [i]) for i in range(30)]
    # The header is whole, so the index is that of the whole file.
    assert [i for i, (shown, _) in enumerate(alone) if shown == [i]] == [*range(12), *range(20, 30)]
    assert all(reason for i, (_, reason) in enumerate(alone) if 12 <= i < 20)


def test_lists_of_other_files_pipes_and_devices_are_no_videos(tmp_path):
    mf.write_video(tmp_path / "real.mp4", 4)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    (tmp_path / "self.mp4").write_text("ffconcat version 1.0\nfile self.mp4\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n")
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.mp4", "AVIF")
    (tmp_path / "text.srt.mp4").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.symlink("/dev/zero", tmp_path / "zero.mp4")
    os.symlink(tmp_path / "loop.mp4", tmp_path / "loop.mp4")
    for name in ("list", "self", "hls", "picture", "text.srt", "pipe", "zero", "loop"):
        with pytest.raises(BadMedia) as error:
            index_video(tmp_path / f"{name}.mp4")
        assert error.value.reason
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("codec", ["wmv2", "wmv1"])
def test_zeros_in_a_wmv_are_found(tmp_path, codec):
    """In headers of payloads, which demuxers pass over, and in pictures, which decoders conceal; but for the rare place
    where zeros are a legal picture."""
    path = Path(written(tmp_path / "whole.wmv", codec, 28, gop=8, bframes=0))
    data, rng, silent, refused = path.read_bytes(), np.random.default_rng(0), 0, 0
    index = index_video(path)
    right = mf.counters(read_frames(path, index.pts, index))
    assert right == list(range(28))
    hurt = tmp_path / "hurt.wmv"
    for begin in rng.integers(600, len(data) - 200, 24):
        hurt.write_bytes(data[:begin] + bytes(40) + data[begin + 40 :])
        try:
            index = index_video(hurt)
            silent += mf.counters(read_frames(hurt, index.pts, index)) != right
        except BadMedia:
            refused += 1
    assert refused >= 8
    assert silent <= 1


def test_an_encoder_leaves_the_scheduling_of_the_tests_alone(tmp_path):
    """SVT-AV1 sets SCHED_FIFO 99 for root, and every other test process waits."""
    before = os.sched_getscheduler(0)
    written(tmp_path / "a.mkv", "libsvtav1", count=3)
    assert os.sched_getscheduler(0) == before
