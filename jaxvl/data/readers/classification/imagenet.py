"""ImageNet-1k (ILSVRC 2012): class folders as they are usually unpacked, or Kaggle's tree.

ROOT/train/<wnid>/*.JPEG      1,281,167 pictures; the label is the rank of the wnid among the sorted folder names
ROOT/val/<wnid>/*.JPEG        50,000; or flat, `val/ILSVRC2012_val_00000001.JPEG`, with one of
    ROOT/val.txt              `name label` a line, labels from 0 in the same order (Caffe's list)
    ROOT/LOC_val_solution.csv Kaggle's `ImageId,PredictionString`, the wnid first

The devkit's `ILSVRC2012_validation_ground_truth.txt` counts classes in an order of its own and is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_folder import (
    ImageReading,
    LabelledImage,
    class_folders,
    is_image,
    read_image_folder,
)
from jaxvl.data.readers.classification.image_list import parse_list
from jaxvl.data.readers.common import near, read_csv

TREES = ("", os.path.join("ILSVRC", "Data", "CLS-LOC"))
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"


def read_imagenet(root: str | os.PathLike, split: str) -> ImageReading:
    """The pictures of 'train' or 'val'. Raises InputError: no such folder, tars that were not unpacked, a flat `val`
    without a list (or with the devkit's only), a listed class or wnid that training does not have."""
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of ImageNet{near(top)}")
    base = next((b for t in TREES if os.path.isdir(b := os.path.join(top, t, "train"))), None)
    if base is None:
        raise InputError(f"{top}: holds no train/ (nor ILSVRC/Data/CLS-LOC/train/)")
    base = os.path.dirname(base)
    classes = list(class_folders(os.path.join(base, "train")))
    tars = [n for n in sorted(os.listdir(os.path.join(base, "train"))) if n.endswith(".tar")]
    if tars and len(classes) < len(tars):
        raise InputError(f"{base}/train: {len(tars)} archives ({tars[0]}, ...) are not unpacked, each into its folder")
    folder = os.path.join(base, split)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder of ImageNet{near(folder)}")
    if class_folders(folder):
        return read_image_folder(folder, name=f"imagenet {split}", classes=classes)
    return _read_flat(top, folder, split, classes)


def _read_flat(root: str, folder: str, split: str, classes: Sequence[str]) -> ImageReading:
    listed, source = _flat_labels(root, folder, split, classes)
    images, missing, skipped = [], [], []
    for name, label in listed.items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            missing.append(name)
        elif os.path.getsize(path) == 0:
            skipped.append((name, "file of 0 bytes"))
        else:
            images.append(LabelledImage(path, label, name))
    skipped += [(n, f"not in {os.path.basename(source)}") for n in sorted(os.listdir(folder)) if n not in listed]
    skipped = [(n, why) for n, why in skipped if is_image(n)]
    if not images:
        raise InputError(f"{folder}: none of the {len(listed)} files that {source} names is there")
    return ImageReading(f"imagenet {split}", images, tuple(classes), tuple(missing), tuple(skipped))


def _flat_labels(root: str, folder: str, split: str, classes: Sequence[str]) -> tuple[dict[str, int], str]:
    places = [os.path.join(d, f"{split}.txt") for d in (root, folder, os.path.dirname(folder))]
    for path in places:
        if os.path.isfile(path):
            rows = parse_list(path)
            high = max(rows, key=lambda r: r[1])
            if high[1] >= len(classes):
                raise InputError(f"{path}: line {high[2]}: label {high[1]}, but training has {len(classes)} classes")
            return {os.path.basename(name): label for name, label, _ in rows}, path
    solution = os.path.join(root, f"LOC_{split}_solution.csv")
    if os.path.isfile(solution):
        rank = {wnid: i for i, wnid in enumerate(classes)}
        out = {}
        for row in read_csv(solution, ("ImageId", "PredictionString"), "the labels of the validation pictures"):
            wnid = row["PredictionString"].split(" ", 1)[0]
            if wnid not in rank:
                raise InputError(f"{solution}: {row['ImageId']} is of class {wnid!r}, which training has no folder of")
            out[f"{row['ImageId']}.JPEG"] = rank[wnid]
        return out, solution
    devkit = [d for d in (root, folder) if os.path.isfile(os.path.join(d, DEVKIT))]
    also = f" ({DEVKIT} counts classes in the devkit's order, which is not that of the folders)" if devkit else ""
    raise InputError(
        f"{folder}: pictures lie in it directly and {places[0]} is not there{also}; sort them into class folders, or "
        f"add {split}.txt with `name label` a line (labels from 0 by sorted wnid), or Kaggle's LOC_{split}_solution.csv"
    )
