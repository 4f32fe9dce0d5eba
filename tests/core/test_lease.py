import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from jaxvl.core import lease
from jaxvl.core.errors import InputError
from tests import tiny

HOLD = """
import sys, time
from jaxvl.core.lease import Lease
Lease(sys.argv[1], print)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the workdir."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_names_the_first_and_a_killed_one_leaves_nothing(other, tmp_path):
    with pytest.raises(
        InputError, match=rf"another training is at work there \(host \S+, process {other.pid}, since 2"
    ):
        lease.Lease(tmp_path, tiny.quiet)
    other.kill()
    other.wait()
    said = []
    held = lease.Lease(tmp_path, said.append)  # at once: nothing is waited for, no hand is needed
    held.release()
    assert said == []
    assert list(tmp_path.iterdir()) == []
    lease.Lease(tmp_path, tiny.quiet).release()


def foreign(path, beat=0):
    row = {"host": "elsewhere", "pid": 7, "since": "2020", "boot": "another", "token": "x", "beat": beat}
    path.write_text(json.dumps(row).ljust(lease.SIZE), encoding="utf-8")


def test_a_run_of_another_machine_is_watched(tmp_path, monkeypatch):
    """Its counter stands still: it is gone. It moves: it lives. No clock is compared."""
    monkeypatch.setattr(lease, "PATIENCE_S", 0.3)
    path, said = tmp_path / lease.LOCK_FILE, []
    foreign(path)
    lease.Lease(tmp_path, said.append).release()
    assert "of host elsewhere, process 7, since 2020; waiting" in said[0]
    foreign(path)
    beats = iter(range(1, 100))
    monkeypatch.setattr(lease.time, "sleep", lambda _: foreign(path, next(beats)))
    with pytest.raises(InputError, match=r"host elsewhere, process 7"):
        lease.Lease(tmp_path, tiny.quiet)


def test_on_a_disk_that_does_not_lock_the_counter_tells(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", cannot)
    monkeypatch.setattr(lease, "PATIENCE_S", 0.5)
    monkeypatch.setattr(lease.time, "sleep", lambda s, sleep=time.sleep: sleep(min(s, 0.05)))
    first = lease.Lease(tmp_path, tiny.quiet, beat_s=0.01)
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        lease.Lease(tmp_path, tiny.quiet)
    while first.lost is None:  # this one stood still for long, and another took it; again, should a beat fall between
        foreign(tmp_path / lease.LOCK_FILE)
        time.sleep(0.01)
    with pytest.raises(InputError, match=r"another training has taken it over|was taken over"):
        first.check()
    first.release()
    assert (tmp_path / lease.LOCK_FILE).exists()  # it is the other's


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"[1]", b"{", b"\xff" * 100])
def test_a_damaged_lock_file_holds_nobody_up(tmp_path, content):
    (tmp_path / lease.LOCK_FILE).write_bytes(content)
    lease.Lease(tmp_path, tiny.quiet).release()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"run.lock: cannot be written"):
        lease.Lease(tmp_path / "file" / "run", tiny.quiet)
