"""ImageNet's layouts, and what people's copies lack."""

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_records import label_of, load_picture
from jaxvl.data.readers.classification.imagenet import DEVKIT, read_imagenet
from jaxvl.data.readers.classification.tfds_images import read_tfds_images
from tests.data.test_tfds_source import prepared  # noqa: F401 (a fixture)

WNIDS = ("n01440764", "n01443537", "n02105855")


def jpeg(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "JPEG")


@pytest.fixture
def root(tmp_path):
    for wnid in WNIDS:
        jpeg(tmp_path / "train" / wnid / f"{wnid}_1.JPEG")
    return tmp_path


def flat(root):
    for i in (1, 2, 3):
        jpeg(root / "val" / f"ILSVRC2012_val_0000000{i}.JPEG")


def test_class_folders_share_the_order_of_training(root):
    jpeg(root / "val" / WNIDS[2] / "v.JPEG")
    for wnid in WNIDS[:2]:
        jpeg(root / "val" / wnid / "v.JPEG")
    assert [i.label for i in read_imagenet(root, "train").images] == [0, 1, 2]
    assert [i.label for i in read_imagenet(root, "val").images] == [0, 1, 2]
    (root / "val" / WNIDS[0] / "v.JPEG").unlink()
    (root / "val" / WNIDS[0]).rmdir()
    with pytest.raises(InputError, match=f"lacks the class folders {WNIDS[0]}"):
        read_imagenet(root, "val")


def test_flat_validation_takes_caffe_s_list(root):
    flat(root)
    (root / "val.txt").write_text(
        "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\nILSVRC2012_val_00000009.JPEG 0\n"
    )
    got = read_imagenet(root, "val")
    assert [(i.image_id[-6:-5], i.label) for i in got.images] == [("1", 2), ("2", 0)]
    assert "1 listed files are not there (ILSVRC2012_val_00000009.JPEG)" in got.line()
    assert "1 skipped, not in val.txt (ILSVRC2012_val_00000003.JPEG)" in got.line()
    (root / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 3\n")
    with pytest.raises(InputError, match="line 1: label 3, but training has 3 classes"):
        read_imagenet(root, "val")


def test_flat_validation_takes_kaggle_s_solution_in_kaggle_s_tree(tmp_path):
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid in WNIDS:
        jpeg(base / "train" / wnid / "x.JPEG")
    flat(base)
    head = "ImageId,PredictionString\n"
    (tmp_path / "LOC_val_solution.csv").write_text(head + f"ILSVRC2012_val_00000002,{WNIDS[1]} 1 2 3 4 \n")
    assert [i.label for i in read_imagenet(tmp_path, "val").images] == [1]
    (tmp_path / "LOC_val_solution.csv").write_text(head + "ILSVRC2012_val_00000002,n09999999 1 2 3 4\n")
    with pytest.raises(InputError, match="of class 'n09999999', which training has no folder of"):
        read_imagenet(tmp_path, "val")


def test_what_copies_lack_is_named(root, tmp_path):
    with pytest.raises(InputError, match="no such folder of ImageNet"):
        read_imagenet(root / "no", "train")
    with pytest.raises(InputError, match="holds no train/"):
        read_imagenet(root / "train", "train")
    flat(root)
    with pytest.raises(InputError, match=r"pictures lie in it directly and .*val.txt is not there; sort them"):
        read_imagenet(root, "val")
    (root / DEVKIT).write_text("490\n361\n171\n")
    with pytest.raises(InputError, match="counts classes in the devkit's order"):
        read_imagenet(root, "val")
    for i in range(4):
        (root / "train" / f"n0000000{i}.tar").touch()
    with pytest.raises(InputError, match=r"4 archives \(n00000000.tar, ...\) are not unpacked"):
        read_imagenet(root, "train")


def test_tfds_pictures_come_with_labels_and_without_tensorflow(prepared):  # noqa: F811
    got = read_tfds_images(prepared, "train")
    assert len(got) == 10
    assert label_of(got[7]) == 1
    np.testing.assert_array_equal(np.asarray(load_picture(got[7])), np.full((4, 5, 3), 140))
    assert got[7].image_id == "tiny train#7"
