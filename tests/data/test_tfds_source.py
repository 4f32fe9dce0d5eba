from __future__ import annotations

import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.tfds_images import find_tfds, read_tfds_images
from jaxvl.data.tfds_source import open_tfds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of ten pictures, as `tfds build` leaves it, written without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = tmp_path_factory.mktemp("tfds") / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["a", "b"])}
    )
    features.save_config(str(folder))
    writer = ArrayRecordWriter(str(folder / "tiny-train.array_record-00000-of-00001"), "group_size:1")
    for i in range(10):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 5, 3), 20 * i, np.uint8)).save(buffer, "PNG")
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
        example.features.feature["label"].int64_list.value.append(i % 2)
        writer.write(example.SerializeToString())
    writer.close()
    split = {"name": "train", "shardLengths": ["10"], "numBytes": "999"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def test_reads_pictures_and_labels(prepared):
    source = pickle.loads(pickle.dumps(open_tfds(prepared, "train")))
    assert len(source) == 10
    np.testing.assert_array_equal(source[7]["image"], np.full((4, 5, 3), 140, np.uint8))
    assert source[7]["label"] == 1
    half = open_tfds(prepared, "train[50%:]")
    assert len(half) == 5
    assert half[0]["image"][0, 0, 0] == 100


def test_labelled_pictures_are_read_one_at_a_time(prepared, tmp_path):
    folder = tmp_path / "digits" / "1.0.0"
    shutil.copytree(prepared, folder)
    (folder / "label.labels.txt").unlink()
    assert find_tfds(tmp_path, "digits") == str(folder)  # the only version
    with pytest.raises(InputError, match=r"label.labels.txt is not there, so the classes have no names"):
        read_tfds_images(folder, "train")
    (folder / "label.labels.txt").write_text("even\nodd\n")
    reading = read_tfds_images(folder, "train")
    assert reading.classes == ("even", "odd")
    assert reading.line() == "digits train: 10 images of 2 classes (TFDS)"
    picture = pickle.loads(pickle.dumps(reading.images))[7].load()
    assert (picture.pixels.shape, int(picture.pixels[0, 0, 0]), picture.label) == ((4, 5, 3), 140, 1)
    assert picture.image_id == reading.images[7].image_id
    shutil.copytree(folder, tmp_path / "digits" / "2.0.0")
    with pytest.raises(InputError, match=r"has the versions 1.0.0, 2.0.0; name one of them, as digits/2.0.0"):
        find_tfds(tmp_path, "digits")
    with pytest.raises(InputError, match=r"mnist: no such TFDS data set"):
        find_tfds(tmp_path, "mnist")


def edit(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "split", "message"),
    [
        (lambda d: None, "test", "no split 'test'; it has train"),
        (lambda d: edit(d, fileFormat="tfrecord"), "train", "file_format=array_record"),
        (lambda d: (d / "dataset_info.json").unlink(), "train", "no dataset_info.json in this TFDS folder$"),
        (lambda d: (d / "features.json").unlink(), "train", r"features\.json: no such file"),
        (lambda d: (d / "dataset_info.json").write_text("{"), "train", "broken JSON"),
        (lambda d: next(d.glob("*array_record-*")).unlink(), "train", "0 of the 1 shards of 'train'"),
        (lambda d: next(d.glob("*array_record-*")).write_bytes(b"x" * 70000), "train", "truncated or damaged shard"),
    ],
)
def test_wrong_folders_say_what_to_do(prepared, tmp_path, damage, split, message):
    folder = shutil.copytree(prepared, tmp_path / "tiny" / "1.0.0")
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        len(open_tfds(folder, split))
    assert "\n" not in str(error.value)


def test_the_parent_folder_names_its_versions(prepared, tmp_path):
    with pytest.raises(InputError, match=r"it has the versions 1\.0\.0, name one"):
        open_tfds(prepared.parent, "train")
    with pytest.raises(InputError, match="no such file"):
        open_tfds(tmp_path / "nowhere", "train")
