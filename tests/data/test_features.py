"""Features on disk: both forms, and what is wrong with them."""

import json
import pickle

import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import features as store
from jaxvl.data.extract import Extraction, Item, extract_features
from jaxvl.data.features import Features, check_features, known_features, open_features

T, N, F = 4, 3, 5
SHAPES = {"frames": (T, F), "patches": (T, N, F)}


def write_hdf5(path, ids=("v1", "mp4QP4", "zero", "v4"), qids=None, **options):
    h5py = pytest.importorskip("h5py")
    values = np.random.default_rng(0).normal(size=(4, T, 1 + N, F)).astype(np.float32)
    values[2] = 0
    values[3, 0, 0] = 0  # begins with zeros, but is not all zero
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values, **options)
        if ids is not None:
            file.create_dataset("ids", data=np.array(ids, "S20"))
    if qids is not None:
        (path.parent / "qid.json").write_text(json.dumps([[name, "video", 1.5, 2.5] for name in qids]))
    return values


@pytest.mark.parametrize("options", [{}, {"chunks": (1, T, 1 + N, F), "compression": "gzip"}])
def test_hdf5_rows_by_id(tmp_path, options):
    values = write_hdf5(tmp_path / "frame_feat" / "clip_patch_feat_all.h5", **options)
    there = pickle.loads(pickle.dumps(open_features(tmp_path)))
    assert isinstance(there._rows(), np.memmap) == (not options)  # mapped where the file allows it
    assert there.shapes == SHAPES
    got = there.by_id("mp4QP4").arrays
    np.testing.assert_array_equal(got["frames"], values[1, :, 0])
    np.testing.assert_array_equal(got["patches"], values[1, :, 1:])
    np.testing.assert_array_equal(there.by_id("v4").arrays["patches"], values[3, :, 1:])
    assert there.refused == ("zero",)
    assert "zero" not in there
    with pytest.raises(BadMedia, match="all zero"):
        there.by_id("zero")
    with pytest.raises(BadMedia, match="not there"):
        there.by_id("v2")
    assert known_features(there, ["v1.mp4", "mp4QP4.mp4", "QP", "zero"]) == {"v1.mp4": "v1", "mp4QP4.mp4": "mp4QP4"}


def test_hdf5_by_question(tmp_path):
    write_hdf5(tmp_path / "f.h5", ids=None, qids=["Interaction_T1_0", "b", "c", "d"])
    assert open_features(tmp_path / "f.h5").ids == ("Interaction_T1_0", "b", "c", "d")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"ids": ("a", "b", "a", "c")}, "1 ids come twice (a)"),
        ({"ids": ("a", "b", "c")}, "4 rows of features, but 3 ids"),
        ({"ids": None}, "has no 'ids', and there is no qid.json"),
        ({"ids": None, "qids": ["a", "b"]}, "4 rows of features, but 2 ids"),
    ],
)
def test_hdf5_whose_ids_do_not_fit_is_one_line(tmp_path, arguments, line):
    write_hdf5(tmp_path / "f.h5", **arguments)
    with pytest.raises(InputError) as caught:
        open_features(tmp_path / "f.h5")
    assert line in str(caught.value)


def test_what_is_no_hdf5_is_one_line(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "f.h5").write_text("<html>")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        open_features(tmp_path / "f.h5")
    with pytest.raises(InputError, match=r"holds neither features.json nor"):
        open_features(tmp_path)
    with pytest.raises(InputError, match="no such file or folder of features"):
        open_features(tmp_path / "nothing")


def test_not_finite_rows_are_bad_media(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_hdf5(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["features"][0, 2, 1, 3] = np.nan
    with pytest.raises(BadMedia, match="not finite"):
        open_features(tmp_path / "f.h5").by_id("v1")


def example(i, dtype=np.float16):
    rng = np.random.default_rng(i)
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    return Features(arrays, np.arange(T) / 2, 2.0)


def extraction(count=7, bad=(), zero=(), encode=None, **provenance):
    def decode(item):
        number = int(item.media)
        if number in bad:
            raise BadMedia(f"{number}.mp4", "truncated")
        return number

    def make(number):
        made = example(number)
        return Features({k: v * 0 for k, v in made.arrays.items()}, made.times, 2.0) if number in zero else made

    items = [Item(f"v{i}", str(i)) for i in range(count)]
    return Extraction(items, decode, encode or make, {"weights": "w1", **provenance}, T)


def everything(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_extracted_features_come_back_in_any_process(tmp_path):
    done = extract_features(tmp_path / "f", extraction(), per_file=3)
    assert (done.done, done.skipped, done.complete) == (7, (), True)
    there = pickle.loads(pickle.dumps(open_features(tmp_path / "f")))
    assert there.ids == tuple(f"v{i}" for i in range(7))
    assert there.shapes == SHAPES
    for i in (0, 4, 6):
        got = there.by_id(f"v{i}")
        for name, value in example(i).arrays.items():
            np.testing.assert_array_equal(got.arrays[name], value)
            assert got.arrays[name].dtype == np.float16
        np.testing.assert_array_equal(got.times, [0, 0.5, 1, 1.5])
        assert (got.duration, got.timed) == (2.0, True)


def test_bad_and_zero_videos_are_left_out_and_counted(tmp_path):
    done = extract_features(tmp_path / "f", extraction(bad=(1,), zero=(4,)), per_file=3, max_bad_fraction=0.5)
    assert done.skipped == (("v1", "truncated"), ("v4", "all features are zero"))
    assert open_features(tmp_path / "f").ids == ("v0", "v2", "v3", "v5", "v6")
    with pytest.raises(InputError, match=r"2 of 7 examples.*max_bad_fraction = 0.05"):
        extract_features(tmp_path / "f", extraction(bad=(1,), zero=(4,)), per_file=3)


def test_an_extraction_that_was_cut_anywhere_goes_on_to_the_same_bytes(tmp_path):
    extract_features(tmp_path / "whole", extraction(), per_file=3)
    expected = everything(tmp_path / "whole")

    class Stop(Exception):
        pass

    for stop in range(7):
        folder, asked = tmp_path / f"cut{stop}", []

        def encode(number, stop=stop, asked=asked):
            if len(asked) == stop:
                raise Stop
            asked.append(number)
            return example(number)

        with pytest.raises(Stop):
            extract_features(folder, extraction(encode=encode), per_file=3)
        for spool in folder.glob("*.spool"):  # a record that was being written when the process died
            with spool.open("ab") as file:
                file.write(b"\x40\0\0\0\0\0\0\0abcd only the beginning")
        with pytest.raises(InputError, match="the extraction into it has not ended"):
            open_features(folder)
        rest = []

        def go_on(number, rest=rest):
            rest.append(number)
            return example(number)

        extract_features(folder, extraction(encode=go_on), per_file=3)
        assert asked + rest == list(range(7))  # nothing twice, nothing lost
        assert everything(folder) == expected


def test_processes_share_the_files(tmp_path):
    extract_features(tmp_path / "one", extraction(), per_file=2)
    first = extract_features(tmp_path / "two", extraction(), per_file=2, process=1, processes=2)
    assert not first.complete
    second = extract_features(tmp_path / "two", extraction(), per_file=2, process=0, processes=2)
    assert second.complete
    assert (first.done, second.done) == (3, 4)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_another_extraction_into_the_same_folder_is_one_line(tmp_path):
    extract_features(tmp_path / "f", extraction(), per_file=3)
    again = extract_features(tmp_path / "f", extraction(encode=None), per_file=3)  # the same one has nothing to do
    assert again.frames_per_s == 0
    with pytest.raises(InputError, match="weights 'w1' instead of 'w2'"):
        extract_features(tmp_path / "f", extraction(weights="w2"), per_file=3)
    with pytest.raises(InputError, match="examples 7 instead of 8"):
        extract_features(tmp_path / "f", extraction(8), per_file=3)
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no extraction"):
        extract_features(tmp_path / "g", extraction())


def test_a_file_that_is_being_made_is_not_made_twice(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with pytest.raises(RuntimeError):
        extract_features(tmp_path / "f", extraction(encode=lambda n: (_ for _ in ()).throw(RuntimeError())), per_file=9)
    with next((tmp_path / "f").glob("*.spool")).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is making this file"):
            extract_features(tmp_path / "f", extraction(), per_file=9)


def test_features_that_do_not_fit_are_one_line(tmp_path):
    extract_features(tmp_path / "f", extraction(sampling="middles of 4"), per_file=3)
    there = open_features(tmp_path / "f")
    check_features(there, SHAPES, {"weights": "w1", "not stated": 3})
    with pytest.raises(
        InputError, match=r"frames \[4, 5\] instead of \[4, 6\].*weights 'w1' instead of 'w9'"
    ) as caught:
        check_features(there, {**SHAPES, "frames": (4, 6)}, {"weights": "w9"})
    assert "\n" not in str(caught.value)


def test_damage_is_named(tmp_path):
    extract_features(tmp_path / "f", extraction(), per_file=3)
    shard = tmp_path / "f" / "features-00001-of-00003.array_record"
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(InputError, match="this shard is missing"):
        open_features(tmp_path / "f")
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or damaged shard"):
        open_features(tmp_path / "f")
    with pytest.raises(BadMedia, match="another length"):
        store.unpack_features(store.pack_features("v", example(0)) + b"x", "here")
