"""Opening a video file and walking over its frames. One thread; errors of FFmpeg become BadMedia here alone.

A frame is found by its time stamp where the index vouches for the stamps, else by its place among the frames that a
plain decode from the first packet shows. Seeks are never trusted: the packet where one lands must be a key frame of
the index, and the first picture behind it a key picture; else the file is decoded from its beginning.

Nothing here may import jax: it runs in worker processes.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from jaxvl.core.errors import BadMedia
from jaxvl.data import images
from jaxvl.data.lmdb_source import EncodedVideo

Media = str | os.PathLike | EncodedVideo
# Without the two FULL_CHR flags swscale halves the colour resolution of vivid pictures.
SCALE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Decoders that drop unreferenced frames and nothing else when told to; dav1d drops wanted ones too.
EXACT_SKIP = frozenset({"h264", "hevc", "mpeg4"})
# Decoders that make up, in grey, what came before the first packet; the others show nothing up to the first key frame.
MAKE_UP = frozenset(("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1", "flv", "h261"))
MAKE_UP |= {"h263", "h263p", "rv10", "rv20", "rv30", "rv40", "theora", "vp3", "vp6", "vp6f", "snow", "cavs"}
# Decoders that conceal damage without a mark unless told to hold the stream to its rules.
CONCEAL = frozenset(("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"))
# What may be opened under a video's name: one file that holds the pictures itself. Lists of other files (concat, hls,
# dash), devices, scripts, subtitles and still pictures are no videos, whatever they are called.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,kux,asf,asf_o,ogg,gif,apng,"
    "webp,avif,nut,mxf,dv,gxf,ivf,obu,av1,h264,hevc,vvc,evc,h261,h263,vc1,vc1test,dirac,cavsvideo,avs2,avs3,mjpeg,"
    "mpjpeg,yuv4mpegpipe,rm,ivr,nsv,nuv,pva,ty,wtv,dhav,roq,bink,smk,flic,swf,lmlm4,film_cpk,cine,ipmovie,mlv,"
    "ingenient,smjpeg,amv,xmv,thp,viv,vividas,idcin,rpl"
)
STILL_BRANDS = ("avif", "mif1", "heic", "heix")
"""What the header of pictures says (ISO/IEC 23008-12) that lie in the boxes of an MP4; sequences have others."""
_OPTIONS = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
# Titles that are not UTF-8 must not stop a file from opening: PyAV 19 never decodes them strictly, before it one asks.
_LENIENT = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


class _Astray(Exception):
    """A seek landed where decoding cannot begin."""


@contextlib.contextmanager
def opened(media: Media) -> Iterator[tuple]:
    """`(container, video stream)`, set to one thread. Raises BadMedia with the reason, also for errors inside."""
    name = os.fspath(media)
    file: str | io.BytesIO
    if isinstance(media, EncodedVideo):
        file = io.BytesIO(media.data)
    else:
        require_file(name)
        file = os.path.abspath(name)  # or FFmpeg reads what precedes a colon as a protocol
    inside = False
    try:
        with av.open(file, options=dict(_OPTIONS), **_LENIENT) as container:
            inside = True
            if container.metadata.get("major_brand", "").strip() in STILL_BRANDS:
                raise BadMedia(name, "a still picture, not a video")
            hidden = Disposition.attached_pic | Disposition.timed_thumbnails  # covers of music files, previews
            streams = [s for s in container.streams.video if not s.disposition & hidden]
            if not streams:
                raise BadMedia(name, "no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise BadMedia(name, "no decoder for its video")
            stream.thread_type = "NONE"
            if stream.codec_context.name in CONCEAL:
                stream.codec_context.options = {"err_detect": "bitstream+buffer"}
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.error.InvalidDataError as error:
        reason = "broken data inside the video" if inside else "not a video file, or cut off before its header"
        raise BadMedia(name, reason) from error
    except av.error.ArgumentError as error:
        reason = str(error.strerror or error) if inside else "not a video: FFmpeg takes it for a list, text or picture"
        raise BadMedia(name, reason) from error
    except av.error.FFmpegError as error:
        raise BadMedia(name, f"FFmpeg cannot read it: {error.strerror or error}") from error


def require_file(name: str) -> None:
    """Raises BadMedia where `name` is no regular file with something in it; a pipe would block for ever."""
    try:
        found = os.stat(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadMedia(name, "file is missing") from error
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name with NUL
        raise BadMedia(name, f"cannot be opened: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise BadMedia(name, "is a folder, not a video file")
    if not stat.S_ISREG(found.st_mode):
        raise BadMedia(name, "is a pipe or a device, not a file")
    if found.st_size == 0:
        raise BadMedia(name, "empty file (0 bytes)")


def plain_decode(container, stream, left_out: list[int] | None = None) -> Iterator:
    """Every frame that is shown, in order, decoded from the first packet on.

    A stream that begins without a key frame is shown from its first key frame on, as players do; `left_out[0]`
    counts the packets before it that gave no picture. Raises InvalidDataError where data behind it is broken.
    """
    wait = stream.codec_context.name in MAKE_UP
    key_seen, shown, first = False, False, True
    with _demuxed(container, stream) as packets:
        for packet in packets:
            key_seen = key_seen or packet.is_keyframe
            shown, first = shown or (first and key_seen), False
            packet.is_corrupt = False  # of MPEG-TS: a gap in the packets' count, as where two streams were joined
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                if key_seen:
                    raise
                frames = []
            for frame in frames:
                shown = shown or not wait or frame.key_frame
                if shown:
                    yield frame
            if not key_seen and packet.size and left_out is not None:
                left_out[0] += 1


def _demuxed(container, stream) -> contextlib.closing:
    """The packets of the stream, for a `with` around whoever may stop before the last one.

    Closed, not dropped: PyAV's wheels are built for Python's limited API, where a Cython generator that is dropped
    never runs its `finally` (github.com/cython/cython/issues/6405); `demux` would keep its packet for good.
    """
    return contextlib.closing(container.demux(stream))


def visit(
    media: Media, index, wanted: Sequence[int], show: Callable[[int, object], object], at: Callable[[int], float]
) -> None:
    """Calls `show(stamp, frame)` for the frames with the stamps `wanted` (ascending, each once) of `index`.

    at: seconds of a stamp, for errors. Raises BadMedia where a frame cannot be decoded.
    """
    name = os.fspath(media)
    with opened(media) as (container, stream):
        left = _visit(name, container, stream, index, wanted, show, at, seek=index.exact)
    if left:
        with opened(media) as (container, stream):
            _visit(name, container, stream, index, left, show, at, seek=False)


def _visit(name: str, container, stream, index, wanted, show, at, seek: bool) -> Sequence[int]:
    """What is left of `wanted` where a seek did not lead to a frame; without `seek` nothing is."""
    skip = index.exact and stream.codec_context.name in EXACT_SKIP
    keys = frozenset(index.keys.tolist())
    frames: Iterator | None = None
    position: int | None = None  # the stamp of the frame that came out last
    sought = damaged = False
    try:
        for number, target in enumerate(wanted):
            key = int(index.keys[max(0, np.searchsorted(index.keys, target, "right") - 1)])
            if position is None or (seek and key > position and key > index.keys[0]):
                _end(frames)
                jump = seek and key > index.keys[0]
                sought = sought or jump
                if jump:
                    container.seek(key, stream=stream)
                if index.exact:
                    frames = _stamped(container, stream, keys if jump else None, frozenset(wanted) if skip else None)
                else:
                    frames = _numbered(container, stream)
            frame = None
            while position is None or position < target:
                position, frame = next(frames, (np.iinfo(np.int64).max, None))
                if frame is not None:  # what follows a damaged picture is made from it, up to the next key frame
                    damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if position != target or damaged:
                if sought:
                    return wanted[number:]
                why = (
                    "cannot be decoded (broken or truncated)"
                    if position != target
                    else "is damaged or made from a damaged one"
                )
                raise BadMedia(name, f"the frame at {at(target):.3f} s {why}")
            show(target, frame)
    except _Astray:
        return wanted[number:]
    finally:
        _end(frames)  # before the container closes: a generator that goes on after that ends the process
    return ()


def _end(frames: Iterator | None) -> None:
    if frames is not None:
        frames.close()


def _numbered(container, stream) -> Iterator:
    yield from enumerate(plain_decode(container, stream))


def _stamped(container, stream, keys: frozenset[int] | None, targets: frozenset[int] | None) -> Iterator:
    """`(stamp, frame)`. keys: after a seek, where it may have landed. targets: the stamps that are needed, where
    other unreferenced frames may be left out. Raises _Astray."""
    codec, first_packet, first_frame = stream.codec_context, keys is not None, keys is not None
    with _demuxed(container, stream) as packets:
        for packet in packets:
            if packet.size:
                if first_packet and not (packet.is_keyframe and packet.pts in keys):
                    raise _Astray
                first_packet = False
                if targets is not None:
                    codec.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
            for frame in packet.decode():
                if first_frame and not frame.key_frame:
                    raise _Astray
                first_frame = False
                if frame.pts is not None:
                    yield frame.pts, frame


def picture(frame, reformatter: VideoReformatter, short_side: int | None, crop: int | None) -> np.ndarray:
    """One decoded frame to upright RGB, `[H, W, 3]` uint8; for H.264 scaling costs less before than after RGB."""
    width, height, interpolation = frame.width, frame.height, None
    if short_side is not None and min(width, height) != short_side:
        width, height = images.short_side_size(width, height, short_side)
        interpolation = SCALE
    # threads=1: the default is one a CPU, in every worker.
    rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    upright = _upright(rgb.to_ndarray(), frame)
    if crop is not None:
        left, top = images.crop_offsets(upright.shape[1], upright.shape[0], crop)
        upright = upright[top : top + crop, left : left + crop]
    return upright


def _upright(pixels: np.ndarray, frame) -> np.ndarray:
    """Turned and mirrored as the display matrix says, to the nearest quarter of a turn.

    The matrix (a b; c d) brings x to a x + c y and y to b x + d y (ISO/IEC 14496-12, 6.2.2).
    """
    found = frame.side_data.get(Type.DISPLAYMATRIX) if frame.side_data else None
    if found is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(found), np.int32)[:5].astype(np.int64)
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
