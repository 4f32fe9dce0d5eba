from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "scalar": np.array(2.5, np.float32),
    "matrix": RNG.standard_normal((3, 4)).astype(np.float32),
    "transposed": RNG.standard_normal((3, 4)).T,
    "half": RNG.standard_normal(5).astype(np.float16),
    "bf16": RNG.standard_normal((2, 2)).astype(ml_dtypes.bfloat16),
    "big_endian": np.arange(3).astype(">i8"),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 2), np.int32),
    "ü/ö": np.arange(3, dtype=np.uint8),
}


def test_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, ARRAYS, {"note": "x"})
    got, metadata = read_safetensors(path)
    assert metadata == {"format": "np", "note": "x"}
    assert list(got) == list(ARRAYS)
    for name, value in ARRAYS.items():
        assert got[name].dtype == value.dtype.newbyteorder("="), name
        assert got[name].shape == value.shape
        np.testing.assert_array_equal(got[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_bytes_are_those_of_the_specification(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.array([1, 2], np.int16), "b": np.array(3.0, np.float32)})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert header["a"] == {"dtype": "I16", "shape": [2], "data_offsets": [0, 4]}
    assert header["b"] == {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}
    assert data[8 + length :] == b"\x01\x00\x02\x00\x00\x00\x40\x40"


def with_header(path, header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(**fields):
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **fields}}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (entry(data_offsets=[4, 20]), "'a' lies outside the file"),
        (entry(shape=[5]), "'a' lies outside the file"),
        (entry(data_offsets=[-4, 12]), "damaged"),
        (entry(data_offsets=[0]), "damaged"),
        (entry(shape=["4"]), "damaged"),
        (entry(dtype="F4"), "dtype F4;"),
        (entry(dtype=["F32"]), r"dtype \['F32'\]"),
        (entry(shape=[10**30, 0], data_offsets=[0, 0]), "damaged"),
        (entry() | {"__metadata__": ["pt"]}, r"its metadata are \['pt'\]"),
        ({"a": {"dtype": "F32"}}, "not a safetensors file"),
        ({"a": 3}, "not a safetensors file"),
        ([1, 2], "not a safetensors file"),
        (b'{"a": ', "not a safetensors file"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, words):
    with pytest.raises(InputError, match=rf"a\.safetensors: .*{words}"):
        read_safetensors(with_header(tmp_path / "a.safetensors", header))


def test_cut_and_wrong_files_are_refused(tmp_path):
    path, cut = tmp_path / "a.safetensors", tmp_path / "cut.safetensors"
    write_safetensors(path, {k: v for k, v in ARRAYS.items() if v.size})
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.safetensors"):
            read_safetensors(cut)
    cut.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        read_safetensors(cut)
    with pytest.raises(InputError, match="no such file"):
        read_safetensors(tmp_path / "gone")


def test_dtypes_without_a_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="'a': dtype complex64"):
        write_safetensors(tmp_path / "a", {"a": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


def two(a, b, size=8):
    fields = {"dtype": "F32", "shape": [1]}
    return {"a": {**fields, "data_offsets": [a, a + 4]}, "b": {**fields, "data_offsets": [b, b + 4]}}, b"\0" * size


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (*two(0, 2), "'b' overlaps another"),
        (*two(0, 0, 4), "'b' overlaps another"),
        (*two(0, 8, 12), "'b' lies behind 4 bytes that belong to none"),
        (*two(4, 0, 12), "4 bytes after its last tensor"),
        (*two(4, 8, 12), "'a' lies behind 4 bytes"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
         b"\0" * 4, "the name 'a' comes twice"),
        ({"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}, b"\0" * 4, "the header is damaged"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"\0" * 4, "the header is damaged"),
        (b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "not a safetensors file"),
    ],
)  # fmt: skip
def test_tensors_fill_the_file_once_and_in_order(tmp_path, header, data, words):
    with pytest.raises(InputError, match=words):
        read_safetensors(with_header(tmp_path / "a.safetensors", header, data))


def test_the_order_of_the_header_is_free(tmp_path):
    header, data = two(4, 0)
    assert list(read_safetensors(with_header(tmp_path / "a.safetensors", header, data))[0]) == ["a", "b"]
