import io
import zipfile

import numpy as np
import pytest

from jaxvl.core import arrays
from jaxvl.core.errors import InputError


def test_arrays_come_back_and_damage_is_one_line_with_the_mend(tmp_path):
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    kept = {"x": rng.random((4, 5)), "sot/name": np.arange(7)}
    arrays.write_npz(path, kept)
    got = arrays.read_npz(path, "")
    assert list(got) == list(kept)
    assert all(np.array_equal(got[name], kept[name]) for name in kept)
    whole = path.read_bytes()
    other = (b"", b"text", _npy(b"(1,)"), _npy(b"(10**15,)"), _zip(_npy(b"(((")), _zip(b"\0"))
    for content in (*_hurt(whole, rng), *other):
        path.write_bytes(content)
        with pytest.raises(InputError) as line:
            arrays.read_npz(path, "evaluate again")
        assert str(line.value).startswith(f"{path}: cannot be read (")
        assert str(line.value).endswith("; evaluate again")
        assert "\n" not in str(line.value)
    with pytest.raises(InputError, match="No such file or directory"):
        arrays.read_npz(tmp_path / "none.npz", "evaluate again")


def _hurt(whole, rng):
    for _ in range(8):
        at = int(rng.integers(100, 300))  # inside of an array, which has a checksum
        yield whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
    yield from (whole[: len(whole) // 2], whole[:-10], bytes(len(whole)))


def _npy(shape: bytes) -> bytes:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + b", }"
    head += b" " * (118 - len(head) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", content)
    return file.getvalue()
