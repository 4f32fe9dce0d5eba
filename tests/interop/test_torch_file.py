from __future__ import annotations

import collections
import io
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop.torch_file import read_checkpoint, read_state_dict
from tests.interop import torch_writer as W

RNG = np.random.default_rng(0)
ARRAYS = {
    "half": RNG.standard_normal((2, 3)).astype(np.float16),
    "float": RNG.standard_normal((4, 1, 5)).astype(np.float32),
    "double": RNG.standard_normal(3),
    "bf16": RNG.standard_normal((3, 2)).astype(ml_dtypes.bfloat16),
    "long": np.array([[-5, 2**40]]),
    "int": np.array(7, np.int32),
    "byte": np.arange(5, dtype=np.uint8),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def check(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("save", [W.save, W.save_old])
def test_every_dtype(tmp_path, save):
    check(read_state_dict(save(tmp_path / "a.pt", W.Ordered(ARRAYS))), ARRAYS)


@pytest.mark.parametrize("save", [W.save, W.save_old])
def test_shared_storages_and_strides(tmp_path, save):
    flat = np.arange(24, dtype=np.float32)
    content = {
        "whole": W.View(flat, 0, (4, 6), (6, 1)),
        "transposed": W.View(flat, 0, (6, 4), (1, 6)),
        "column": W.View(flat, 2, (4,), (6,)),
        "expanded": W.View(flat, 5, (3, 2), (0, 1)),
        "scalar": W.View(flat, 23, (), ()),
    }
    x = flat.reshape(4, 6)
    expected = {"whole": x, "transposed": x.T, "column": x[:, 2], "expanded": np.tile(flat[5:7], (3, 1))}
    expected["scalar"] = np.array(23, np.float32)
    check(read_state_dict(save(tmp_path / "a.pt", content)), expected)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_training_checkpoint_is_read_through(tmp_path, key):
    scalar = W.Reduce(
        W.Global("numpy.core.multiarray", "scalar"),
        (W.Reduce(W.Global("numpy", "dtype"), ("f8", False, True)), np.float64(43.1).tobytes()),
    )
    content = {
        "epoch": 5,
        "best_acc1": scalar,
        "lr": 1e-3,
        "optimizer": {"state": {0: {"exp_avg": np.ones(3, np.float32)}}, "param_groups": [{"params": [0]}]},
        key: W.Ordered({"a.weight": W.parameter(ARRAYS["float"]), "note": "text"}),
    }
    check(read_state_dict(W.save(tmp_path / "a.pt", content)), {"a.weight": ARRAYS["float"]})


def test_torchscript_gives_dotted_names(tmp_path):
    arrays = {f"visual.resblocks.0.{k}": v for k, v in ARRAYS.items()} | {"logit_scale": np.array(1, np.float32)}
    path = W.save(tmp_path / "a.pt", W.modules(arrays), scripted=True, root="ViT-B-32/")
    check(read_state_dict(path), arrays)


class Evil:
    def __reduce__(self):
        return print, ("code of the file ran",)


ARGS = W.Build(W.Global("argparse", "Namespace"), {"lr": 1, "device": W.Reduce(W.Global("torch", "device"), ("cuda",))})
CALL = W.Reduce(W.Global("os", "system"), ("echo code of the file ran",))


@pytest.mark.parametrize("save", [W.save, W.save_old])
def test_objects_beside_a_state_dict_are_passed_over_and_never_run(tmp_path, capfd, save):
    """A training checkpoint as the examples of PyTorch write it: arguments of the run, the best accuracy a tensor."""
    queue = W.Build(W.Global("easydict", "EasyDict"), {"held": np.zeros(3, np.float32), "size": 3})
    content = {
        "args": ARGS, "best_acc1": np.array(76.1, np.float32), "queue": queue,
        "state_dict": W.Ordered({"a.weight": ARRAYS["float"]}),
    }  # fmt: skip
    check(read_state_dict(save(tmp_path / "a.pt", content)), {"a.weight": ARRAYS["float"]})
    assert capfd.readouterr().out == ""


def test_pickles_of_the_standard_library_are_passed_over(tmp_path):
    """The real pickler's opcodes: sets, a dict with its items and a factory, a list that holds itself."""
    loop = [collections.Counter("aab"), collections.deque([1, 2]), {1, 2}, slice(3), pathlib.PurePosixPath("a/b")]
    loop.append(loop)
    path = W.save(tmp_path / "a.pt", {"model": W.Raw(pickle.dumps({"w": 1, "loop": loop}, protocol=2)[2:-1])})
    assert read_state_dict(path) == {}


def test_other_classes_in_place_of_tensors_are_refused_by_name_and_never_run(tmp_path, capfd):
    path = tmp_path / "a.pt"
    W.save(path, {"a": np.ones(2, np.float32), "args": ARGS})
    with pytest.raises(InputError, match=r"a\.pt: 'args' is an object of class argparse\.Namespace;.*re-save it"):
        read_state_dict(path)
    for beside in (CALL, W.Build(W.Global("my.project", "Queue"), {})):
        W.save(path, {"state_dict": {"a": np.ones(2, np.float32)}, "beside": beside})
        with pytest.raises(InputError, match=r"a\.pt: holds an object of class (os\.system|my\.project\.Queue);"):
            read_state_dict(path)
    W.save(path, {"model": W.Raw(pickle.dumps({"w": Evil()}, protocol=2)[2:-1])})
    with pytest.raises(InputError, match=r"class __builtin__\.print"):
        read_state_dict(path)
    W.save(path, {"state_dict": {"a": W.Reduce(W.Global("torch._utils", "_rebuild_qtensor"), (1,))}})
    with pytest.raises(InputError, match=r"holds an object of class torch\._utils\._rebuild_qtensor"):
        read_state_dict(path)
    W.save(path, {"model": W.Build(W.Global("my.project", "Net"), {"_parameters": {"a": np.ones(2, np.float32)}})})
    with pytest.raises(InputError, match=r"holds an object of class my\.project\.Net"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(InputError, match=r"class __builtin__\.print"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(InputError, match="a pickle, but not one of PyTorch"):
        read_state_dict(path)
    W.save(path, {"a": CALL}, scripted=True)
    with pytest.raises(InputError, match=r"os\.system"):
        read_state_dict(path)
    # classes of TorchScript are stubs only in TorchScript archives
    W.save(path, W.modules({"a": np.ones(2, np.float32)}))
    with pytest.raises(InputError, match=r"class __torch__\."):
        read_state_dict(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("save", [W.save, W.save_old])
def test_cut_files_are_refused_at_every_length(tmp_path, save):
    path = save(tmp_path / "whole.pt", ARRAYS)
    data, cut = path.read_bytes(), tmp_path / "cut.pt"
    for length in range(0, len(data) - 1, max(1, len(data) // 60)):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.pt"):
            read_state_dict(cut)


def test_garbled_files_never_raise_anything_else(tmp_path):
    data = bytearray(W.save(tmp_path / "whole.pt", ARRAYS).read_bytes())
    path = tmp_path / "garbled.pt"
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        bad = data.copy()
        for place in rng.integers(4, len(bad), 4):
            bad[place] = rng.integers(256)
        path.write_bytes(bad)
        try:
            read_state_dict(path)
        except InputError as error:
            assert "garbled.pt" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 75


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (W.View(np.ones(6, np.float32), 0, (2, 4), (4, 1)), "reaches beyond its storage of 6"),
        (W.View(np.ones(6, np.float32), 1, (2, 3), (3, 1)), "reaches beyond"),
        (W.View(np.ones(6, np.float32), 5, (2,), (-1,)), "strides"),
        (W.View(np.ones(6, np.float32), -1, (2,), (1,)), "offset -1"),
        (W.View(np.ones(6, np.float32), 0, (10**12, 6), (0, 1)), "tensors of 24,000,000,000,000 bytes"),
        (W.View(np.ones(6, np.float32), 0, (2**23, 3), (0, 1)), "tensors of 100,663,296 bytes"),
    ],
)
def test_views_outside_their_storage_are_refused(tmp_path, view, words):
    with pytest.raises(InputError, match=words):
        read_state_dict(W.save(tmp_path / "a.pt", {"a": view}))


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(InputError, match=r"a\.pt: no such file"):
        read_state_dict(path)
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="not a PyTorch file"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(InputError, match=r"a\.pt"):
        read_state_dict(path)
    W.save(path, {"epoch": 1, "lr": 0.1})
    with pytest.raises(InputError, match=r"no state dict \(keys: epoch, lr"):
        read_state_dict(path)
    W.save(path, [np.ones(2, np.float32)])
    with pytest.raises(InputError, match="holds a list"):
        read_state_dict(path)


def numpy_array():
    """As numpy pickles one."""
    made = W.Reduce(W.Global("numpy.core.multiarray", "_reconstruct"), (W.Global("numpy", "ndarray"), (0,), b"b"))
    return W.Raw(W.Writer().emit(made) + W.Writer().emit((1, (2,), None, False, b"\0" * 16)) + b"b")


BESIDE = {
    "array": numpy_array,
    "random": lambda: ["MT19937", numpy_array(), 3],
    "type": lambda: W.Global("torch", "float32"),
    "layout": lambda: W.Reduce(W.Global("torch.serialization", "_get_layout"), ("torch.strided",)),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_arrays_states_and_types_beside_weights_are_passed_over(tmp_path, kind):
    weights = W.Ordered({"a": ARRAYS["float"]})
    path = W.save(tmp_path / "a.pt", {"beside": {"deep": [BESIDE[kind]()]}, "state_dict": weights})
    check(read_state_dict(path), {"a": ARRAYS["float"]})


def test_a_class_of_ones_own_is_passed_over_by_name_alone(tmp_path):
    precision = W.Reduce(W.Global("__main__", "Precision"), (1,))
    path = W.save(tmp_path / "a.pt", {"args": {"p": precision}, "state_dict": {"a": ARRAYS["float"]}})
    with pytest.raises(InputError, match=r"--pass-over __main__\.Precision"):
        read_state_dict(path)
    check(read_checkpoint(path, pass_over=["__main__.Precision"])[0], {"a": ARRAYS["float"]})
    path = W.save(tmp_path / "b.pt", {"state_dict": {"a": precision}})
    with pytest.raises(InputError, match=r"'a' is an object of class __main__\.Precision"):
        read_checkpoint(path, pass_over=["__main__.Precision"])


@pytest.mark.parametrize("key", ["model_dict", "module", "teacher", "net"])
def test_the_place_of_the_state_dict_is_told(tmp_path, key):
    path = W.save(tmp_path / "a.pt", {"student": {"a": ARRAYS["half"]}, "size": 8, key: {"a": ARRAYS["float"]}})
    tensors, place = read_checkpoint(path)
    assert place == key
    check(tensors, {"a": ARRAYS["float"]})
    check(read_checkpoint(path, "student")[0], {"a": ARRAYS["half"]})
    with pytest.raises(InputError, match=r"--inside nobody: 'nobody' is no dict of tensors; dicts are student"):
        read_checkpoint(path, "nobody")
    path = W.save(tmp_path / "b.pt", {"generator": {"ema": {"a": ARRAYS["float"]}, "b": ARRAYS["half"]}})
    with pytest.raises(InputError, match="--inside generator"):
        read_state_dict(path)
    check(read_checkpoint(path, "generator/ema")[0], {"a": ARRAYS["float"]})


def test_tensors_with_attributes_and_of_newer_types(tmp_path):
    """A tensor with an attribute of its own is rebuilt by a function that is given another; uint16 lies in bytes."""
    path = tmp_path / "a.pt"
    data = np.arange(6, dtype=np.uint16)
    untyped = W.Persistent(("storage", W.Global("torch.storage", "UntypedStorage"), "0", "cpu", data.nbytes))
    tail = (0, (2, 3), (3, 1), False, W.Reduce(W.Global("collections", "OrderedDict"), ()))
    typed = W.Reduce(W.Global("torch._utils", "_rebuild_tensor_v3"), (untyped, *tail, W.Global("torch", "uint16"), {}))
    typed_storage = W.Persistent(("storage", W.Global("torch", "ShortStorage"), "0", "cpu", 6))
    marked = W.Reduce(
        W.Global("torch._tensor", "_rebuild_from_type_v2"),
        (
            W.Global("torch._utils", "_rebuild_tensor_v2"),
            W.Global("torch", "Tensor"),
            (typed_storage, *tail),
            {"note": 1},
        ),
    )
    for content, dtype in ((typed, np.uint16), (marked, np.int16)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", W.Writer().pickle({"a": content}))
            archive.writestr("a/data/0", data.tobytes())
        check(read_state_dict(path), {"a": data.astype(dtype).reshape(2, 3)})


def test_sizes_that_lie_are_never_allocated(tmp_path):
    """A thousandth of the memory of what the files claim is there, and none is asked for more."""
    path = tmp_path / "a.pt"
    shared = W.View(np.ones(2**10, np.float32), 0, (2**10, 2**10), (0, 1))
    repeats = W.save(tmp_path / "repeats.pt", {f"t{i}": shared for i in range(64)}).read_bytes()
    memo = b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b"."
    long_bytes = b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc."
    array = b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc."
    storage = W.save_old(tmp_path / "old.pt", {"a": np.ones(4, np.float32)}).read_bytes()
    swollen = io.BytesIO()
    with zipfile.ZipFile(swollen, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", W.Writer().pickle({}))
        archive.writestr("a/data/0", bytes(2**28))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", memo)
    inside = path.read_bytes()
    numel = storage.rindex(struct.pack("<q", 4))
    lies = storage[:numel] + struct.pack("<q", 2**38) + storage[numel + 8 :]
    tracemalloc.start()
    for data in (repeats, memo, long_bytes, array, swollen.getvalue(), inside, lies):
        path.write_bytes(data)
        tracemalloc.reset_peak()
        with pytest.raises(InputError, match=r"a\.pt: damaged or not"):
            read_state_dict(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("save", [W.save, W.save_old])
def test_bytes_after_the_end_and_keys_that_come_twice_are_refused(tmp_path, save):
    path = save(tmp_path / "a.pt", ARRAYS)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputError, match=r"a\.pt: damaged or not .*after its end"):
        read_state_dict(path)
    twice = W.Raw(b"ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\1X\x01\0\0\0aK\2u")
    with pytest.raises(InputError, match="the key 'a' comes twice"):
        read_state_dict(save(path, {"state_dict": twice}))


def test_modules_that_share_without_end_are_refused(tmp_path):
    """Each of sixty modules holds the next one twice: 2^60 names."""
    data = b"c__torch__\nM\n)\x81}b"
    for _ in range(60):
        data = b"c__torch__\nM\n)\x81}(X\1\0\0\0a" + data + b"q\x01X\1\0\0\0bh\x01ub"
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/code/x", "")
        archive.writestr("a/data.pkl", b"\x80\x02" + data + b".")
    with pytest.raises(InputError, match="nest in a circle"):
        read_state_dict(path)
