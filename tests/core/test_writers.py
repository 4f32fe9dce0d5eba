import errno
import io
import json
import os
import struct
import threading

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from jaxvl.core.writers import Appender, Progress, Writer, read_metrics


def events(folder):
    (path,) = folder.glob("events.*")
    content, out = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        body = content[12 : 12 + size]
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        assert struct.unpack("<I", content[12 + size : 16 + size])[0] == masked_crc32c(body)
        out.append(event_pb2.Event.FromString(body))
        content = content[16 + size :]
    return out


def test_events_are_what_tensorboard_reads_and_no_thread_writes_them(tmp_path):
    before = threading.active_count()
    writer = Writer(tmp_path)
    writer.scalars(3, "train", {"loss": 0.5, "bad": float("nan")})
    assert threading.active_count() == before
    first, second = events(tmp_path / "tensorboard")  # whole before it is closed
    assert first.file_version == "brain.Event:2"
    assert (second.step, [(v.tag, v.simple_value) for v in second.summary.value]) == (3, [("train/loss", 0.5)])
    writer.close()
    assert read_metrics(tmp_path, "train") == [{"step": 3, "kind": "train", "loss": 0.5, "bad": "nan"}]


def test_a_disk_that_takes_no_more_costs_nothing_once_it_does_again(tmp_path, monkeypatch):
    """Half a record is cut off again, everything comes later, and it is said once."""
    room, write = [10], os.write

    def limited(handle, data):
        taken = min(room[0], len(data))
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= taken
        return write(handle, data[:taken])

    said = []
    appender = Appender(tmp_path / "a.jsonl", said.append)
    monkeypatch.setattr(os, "write", limited)
    for line in (b"first\n", b"second\n", b"third\n"):
        appender.append(line)
        assert (tmp_path / "a.jsonl").read_bytes() == b"first\n"
    assert said == [f"{tmp_path / 'a.jsonl'}: cannot be written (No space left on device); kept until it can"]
    room[0] = 1000
    appender.append(b"fourth\n")
    assert (tmp_path / "a.jsonl").read_bytes() == b"first\nsecond\nthird\nfourth\n"
    assert said[1:] == [f"{tmp_path / 'a.jsonl'}: can be written again; nothing is missing"]
    room[0] = 0
    appender.append(b"fifth\n")
    appender.close()
    assert said[-1] == f"{tmp_path / 'a.jsonl'}: 1 records are lost (No space left on device)"


@pytest.mark.parametrize(
    "odd", [b"[1]", b"3", b"{", b"\xff\xfe", b'{"kind": "train"}', b'{"kind": "train", "step": "x"}']
)
def test_lines_that_are_no_rows_are_left_out(tmp_path, odd):
    row = {"step": 1, "kind": "train", "loss": 2.0}
    (tmp_path / "metrics.jsonl").write_bytes(odd + b"\n" + json.dumps(row).encode() + b"\n" + odd)
    assert read_metrics(tmp_path, "train") == [row]
    Writer(tmp_path, tensorboard=False).event(2, "resumed")  # behind a line that a kill cut
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines()[
        -1
    ] == b'{"step": 2, "kind": "event", "event": "resumed"}'


def test_what_is_left_is_told_by_the_pace_behind_the_first_line(monkeypatch):
    clock = iter([0.0, 0.0, 100.0, 110.0, 130.0])  # made (twice read), then one a line: 100 s are compilation
    monkeypatch.setattr("jaxvl.core.writers.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress(101, stream=stream)
    for step in (1, 11, 31):
        progress.show(step, "")
    assert [line.split("ETA ")[1] for line in stream.getvalue().splitlines()] == ["?", "1:30", "1:10"]
