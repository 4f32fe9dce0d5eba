"""Whether a video file is all there, from the structure of its container.

A header's frame count or duration proves nothing: edit lists show less than was stored, live recorders write any
number. But containers chain their parts by size, so a file that was cut off, or that lost bytes on the way, does not
add up. Each function here walks that chain without looking at the pictures.

Sources: ISO/IEC 14496-12 (boxes), RFC 8794 and RFC 9559 (EBML, Matroska), RIFF and OpenDML (AVI), GIF89a, Adobe's FLV
specification 10.1 annex E, RFC 3533 (Ogg), Microsoft's ASF
specification 1.20, ISO/IEC 13818-1 (program streams).
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator

Bytes = bytes | mmap.mmap


class _Lost(Exception):
    """The chain breaks. str(): what is missing."""


def missing_part(media: str | bytes, demuxer: str) -> tuple[bool, str]:
    """`(known, reason)` of a file, or of its bytes, that FFmpeg's `demuxer` reads.

    known: False where the container does not say how long it is. reason: what is missing, empty if nothing is.
    """
    walk = _WALKS.get(demuxer)
    if walk is None:
        return False, ""
    with _mapped(media) as data:
        try:
            return walk(data), ""
        except _Lost as lost:
            return True, str(lost)
        except (struct.error, IndexError):  # a field lies behind the end
            return True, "the file ends inside a header"


@contextlib.contextmanager
def _mapped(media: str | bytes) -> Iterator[Bytes]:
    if isinstance(media, bytes):
        yield media
        return
    with open(media, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _until(data: Bytes, end: int, what: str) -> None:
    if end > len(data):
        raise _Lost(f"truncated: {len(data):,} of {end:,} bytes of {what} are there")


def _boxes(data: Bytes) -> bool:
    """MP4, MOV, 3GP: the boxes of the top level."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if size == 1:
            (size,) = struct.unpack(">Q", data[at + 8 : at + 16])
        if size == 0 or not all(32 <= c < 127 or c == 169 for c in kind):
            break  # the last box, up to the end; or padding
        if size < 8:
            raise _Lost(f"broken: a box of {size} bytes")
        _until(data, at + size, f"the file, as its '{kind.decode('latin-1')}' box counts,")
        at += size
    return True


_CLUSTER, _SEGMENT = 0x1F43B675, 0x18538067
_TOP = {0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, 0xEC, 0xBF}


def _element(data: Bytes, at: int) -> tuple[int, int, int | None]:
    """`(id, begin of the content, its size)`; size None: unknown, as live streams write it."""
    first = data[at]
    length = 9 - first.bit_length()
    if length > 4:
        raise _Lost(f"broken: no Matroska element at byte {at:,}; a part is missing or overwritten")
    name = int.from_bytes(data[at : at + length], "big")
    at += length
    width = 9 - data[at].bit_length()
    if width > 8:
        raise _Lost(f"broken: a Matroska element of no size at byte {at:,}")
    size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return name, at + width, None if size == (1 << 7 * width) - 1 else size


def _matroska(data: Bytes) -> bool:
    """Every element of the segment and of its clusters follows the one before it."""
    _, at, size = _element(data, 0)
    at += size or 0
    name, at, size = _element(data, at)
    while name != _SEGMENT:
        at += size or 0
        name, at, size = _element(data, at)
    known, end = size is not None, len(data) if size is None else at + size
    _until(data, end, "the Matroska segment")
    level, cluster_end = _TOP, end
    while at < end:
        name, content, size = _element(data, at)
        if level is _IN_CLUSTER and (at >= cluster_end or name in _TOP - _IN_CLUSTER):
            if at > cluster_end or (cluster_end != end and at < cluster_end):
                raise _Lost(f"broken: a Matroska cluster of another size than it says at byte {at:,}")
            level = _TOP
        if name not in level:
            raise _Lost(f"broken: no Matroska element at byte {at:,}; a part is missing or overwritten")
        if name == _CLUSTER:
            level, cluster_end, at = _IN_CLUSTER, end if size is None else content + size, content
            _until(data, cluster_end, "a Matroska cluster")
            continue
        if size is None:
            raise _Lost(f"broken: a Matroska element of unknown size at byte {at:,}")
        at = content + size
        _until(data, at, "a Matroska element")
    return known


def _riff(data: Bytes) -> bool:
    """AVI: one RIFF chunk, of large files several. A recorder that was stopped leaves the size 0."""
    at = 0
    while at + 8 <= len(data) and data[at : at + 4] == b"RIFF":
        (size,) = struct.unpack("<I", data[at + 4 : at + 8])
        if size in (0, 0xFFFFFFFF):
            return False
        end = at + 8 + size
        _until(data, end, "the RIFF chunk")
        _chunks(data, at + 12, end)
        at = end + size % 2
    return True


def _chunks(data: Bytes, at: int, end: int) -> None:
    """The chunks of a RIFF list follow each other, padded to even places (some writers forget that)."""
    while at + 8 <= end:
        if not all(32 <= c < 127 for c in data[at : at + 4]):
            if all(32 <= c < 127 for c in data[at - 1 : at + 3]):
                at -= 1
            elif any(data[at:end]):
                raise _Lost(f"broken: no AVI chunk at byte {at:,}; a part is missing or overwritten")
            else:
                return  # padding
        (size,) = struct.unpack("<I", data[at + 4 : at + 8])
        inner, at = at, at + 8 + size + size % 2
        if data[inner : inner + 4] == b"LIST" and data[inner + 8 : inner + 12] in (b"movi", b"rec "):
            _chunks(data, inner + 12, min(at, end))


def _gif(data: Bytes) -> bool:
    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    def blocks(at: int, even: bool = False) -> int:
        begin, full, sizes = at, data[at], []
        while data[at]:
            sizes.append(data[at])
            at += data[at] + 1
        # Encoders fill all blocks of an image but the last; where bytes are lost the sizes are those of other bytes.
        if even and any(size != full for size in sizes[:-1]):
            raise _Lost(f"broken: the blocks of the GIF image at byte {begin:,} are uneven; bytes are missing")
        return at + 1

    try:
        at = 13 + table(data[10])
        while data[at] != 0x3B:
            if data[at] == 0x21:
                at = blocks(at + 2)
            elif data[at] == 0x2C:
                at = blocks(at + 10 + table(data[at + 9]) + 1, even=True)
            else:
                raise _Lost(f"broken: no GIF block at byte {at:,}; a part is missing or overwritten")
    except IndexError as error:
        raise _Lost("truncated: the GIF ends without its trailer") from error
    return True


def _flv(data: Bytes) -> bool:
    (at,) = struct.unpack(">I", data[5:9])
    at += 4
    named = data[:4096].find(b"\x00\x08filesize\x00")
    if named >= 0:
        (size,) = struct.unpack(">d", data[named + 11 : named + 19])
        if 0 < size < 1 << 62:
            _until(data, int(size), "the FLV file")
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] & 0x1F not in (8, 9, 18, 15):
            if not any(data[at:]):
                break  # padding
            raise _Lost(f"broken: no FLV tag at byte {at:,}; a part is missing or overwritten")
        _until(data, at + 11 + size, "the FLV file, up to the end of its last tag,")
        at += 11 + size + 4
    return True


def _ogg(data: Bytes) -> bool:
    at, last = 0, {}
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            if last and not any(data[at:]):
                break  # padding
            raise _Lost(f"broken: no Ogg page at byte {at:,}; a part is missing or overwritten")
        flags, serial, number, segments = data[at + 5], *struct.unpack("<II", data[at + 14 : at + 22]), data[at + 26]
        if serial in last and number != last[serial][0] + 1:
            raise _Lost(f"broken: Ogg pages {last[serial][0] + 1} to {number - 1} are missing")
        last[serial] = number, bool(flags & 4)
        begin, at = at, at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        _until(data, at, "the Ogg pages")
        (said,) = struct.unpack("<I", data[begin + 22 : begin + 26])
        if _ogg_checksum(data[begin : begin + 22] + bytes(4) + data[begin + 26 : at]) != said:
            raise _Lost(f"broken: the Ogg page at byte {begin:,} has another checksum than it says")
    if not all(ended for _, ended in last.values()):
        raise _Lost("truncated: an Ogg stream without its last page")
    return True


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """RFC 3533, 6: the polynomial of zlib with the bits the other way round, without its inversions."""
    register = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{register:032b}"[::-1], 2)


def _program_stream(data: Bytes) -> bool:
    """MPG, VOB: packs and packets follow each other; how many there are nobody says (ISO/IEC 13818-1, 2.5.3)."""
    if data[:4] != b"\0\0\1\xba":
        return False
    at = 0
    while at + 4 <= len(data):
        if data[at : at + 3] != b"\0\0\1" or data[at + 3] < 0xB9:
            if not data[at]:
                at += 1  # padding
                continue
            raise _Lost(f"broken: no MPEG packet at byte {at:,}; a part is missing or overwritten")
        kind = data[at + 3]
        if kind == 0xB9:
            at += 4
        elif kind == 0xBA:
            at += 14 + (data[at + 13] & 7) if data[at + 4] >> 6 == 1 else 12
        else:
            at += 6 + int.from_bytes(data[at + 4 : at + 6], "big")
            _until(data, at, "the MPEG packets")
    return False


_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _asf(data: Bytes) -> bool:
    """WMV: the data object follows the header; the size is 0 or 50 in a broadcast."""
    (at,) = struct.unpack("<Q", data[16:24])
    if data[at : at + 16] != _ASF_DATA:
        return False
    (size,) = struct.unpack("<Q", data[at + 16 : at + 24])
    if size <= 50:
        return False
    _until(data, at + size, "the ASF data")
    (count,) = struct.unpack("<Q", data[at + 40 : at + 48])
    length, begin = (size - 50) // max(1, count), at + 50
    starts = {data[begin + k * length : begin + k * length + 3] for k in range(count)}
    if length * count == size - 50 and b"\x82\0\0" in starts and len(starts) > 1:  # all packets start alike
        raise _Lost("broken: an ASF packet is missing or overwritten")
    if length * count == size - 50:
        _asf_objects(data, [begin + k * length for k in range(count)], length)
    return True


def _asf_objects(data: Bytes, packets: list[int], length: int) -> None:
    """Raises where payloads do not follow each other inside the packets, or a picture has not all its bytes (ASF
    specification 5.2). Demuxers pass over such payloads in silence."""
    pieces: dict[int, tuple[int, int, int]] = {}  # of a stream: the object, its size, the bytes of it so far
    for packet in packets:
        at, end = packet, packet + length
        at += 1 + (data[at] & 15) if data[at] & 128 else 0  # error correction
        lengths, fields = data[at], data[at + 1]
        at += 2

        def number(kind: int) -> int:
            nonlocal at
            width = (0, 1, 2, 4)[kind & 3]
            at += width
            return int.from_bytes(data[at - width : at], "little")

        number(lengths >> 5), number(lengths >> 1)
        end -= number(lengths >> 3)
        at += 6
        several, kind = (data[at] & 63, data[at] >> 6) if lengths & 1 else (1, 0)
        at += lengths & 1
        for _ in range(several):
            stream = data[at] & 127
            at += 1
            name, offset, more = number(fields >> 4), number(fields >> 2), number(fields)
            size = int.from_bytes(data[at : at + 4], "little")
            at += more
            payload = number(kind) if lengths & 1 else end - at
            at += payload
            if not stream or at > end:
                raise _Lost(f"broken: no ASF payload where one belongs, before byte {at:,}; a part is overwritten")
            if more < 8:  # packed: whole small objects
                continue
            before = pieces.get(stream, (name, size, size))
            if not offset and before[1] != before[2]:
                raise _Lost(f"broken: {before[2]:,} of the {before[1]:,} bytes of an ASF object are there")
            pieces[stream] = (name, size, payload if not offset else before[2] + payload)
    if short := [piece for piece in pieces.values() if piece[1] != piece[2]]:
        raise _Lost(f"broken: {short[0][2]:,} of the {short[0][1]:,} bytes of an ASF object are there")


def _transport_stream(data: Bytes) -> bool:
    """MPEG-TS: a packet every 188 bytes (192 and 204 with additions); how many there are nobody says."""
    for step, phase in ((188, 0), (192, 4), (204, 0)):
        marks = data[phase::step]
        good = len(marks) - len(marks.lstrip(b"\x47"))
        if good < min(3, len(marks)):
            continue
        at, rest = phase + good * step, data[phase + good * step : phase + (good + 4096) * step]
        if any(rest[p::step][:3] == b"\x47" * 3 for p in range(min(step, len(rest)))) or (b"\x47" * 5 in marks[good:]):
            raise _Lost(f"broken: no MPEG-TS packet at byte {at:,}; a part is missing or overwritten")
        break
    return False


def _mxf(data: Bytes) -> bool:
    """Keys, lengths and values follow each other (SMPTE 377, 6.3)."""
    at = data[: 1 << 16].find(b"\x06\x0e\x2b\x34")
    while at + 17 <= len(data):
        if data[at : at + 4] != b"\x06\x0e\x2b\x34":
            if not any(data[at:]):
                break  # padding
            raise _Lost(f"broken: no MXF key at byte {at:,}; a part is missing or overwritten")
        size, width = data[at + 16], 0
        if size & 128:
            width = size & 127
            size = int.from_bytes(data[at + 17 : at + 17 + width], "big")
        at += 17 + width + size
        _until(data, at, "the MXF file")
    return False


_WALKS: dict[str, Callable[[Bytes], bool]] = {
    "mov,mp4,m4a,3gp,3g2,mj2": _boxes,
    "matroska,webm": _matroska,
    "avi": _riff,
    "gif": _gif,
    "flv": _flv,
    "ogg": _ogg,
    "asf": _asf,
    "mpeg": _program_stream,
    "mxf": _mxf,
    "mpegts": _transport_stream,
}
