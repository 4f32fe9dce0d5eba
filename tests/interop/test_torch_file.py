from __future__ import annotations

import collections
import pathlib
import pickle

import ml_dtypes
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop.torch_file import read_state_dict
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
        (W.View(np.ones(6, np.float32), 0, (10**12, 6), (0, 1)), "repeats a storage of 6"),
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
