"""Tracking data sets in their published layouts, tiny, with the traps of each."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48


def picture(path: Path, seed: int = 0, size=(WIDTH, HEIGHT)) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def text(path: Path, content: str) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())


def moving(n: int, x=4.0, y=5.0, w=20.0, h=16.0, step=1.0) -> np.ndarray:
    """Boxes `[n, 4]` that move to the right."""
    return np.array([[x + step * i, y, w, h] for i in range(n)])


def rows(boxes, delimiter: str = ",") -> str:
    """Boxes as text."""
    return "".join(delimiter.join(f"{v:g}" for v in box) + "\n" for box in boxes)


def lasot(root: Path, n: int = 24) -> Path:
    """airplane-1: frame 3 absent, frame 4 occluded, frame 5 beyond the border, frame 6 without a picture;
    t-shirt-2: two hyphens; airplane-9 is listed but not there."""
    for name in ("airplane-1", "t-shirt-2"):
        here = root / name.rpartition("-")[0] / name
        boxes = moving(n)
        occluded, out = np.zeros(n, int), np.zeros(n, int)
        if name == "airplane-1":
            boxes[3], out[3], occluded[4] = 0, 1, 1
            boxes[5] = [60, 5, 20, 16]
        for i in range(n):
            if name != "airplane-1" or i != 6:
                picture(here / "img" / f"{i + 1:08d}.jpg", i)
        text(here / "groundtruth.txt", rows(boxes))
        text(here / "full_occlusion.txt", ",".join(map(str, occluded)))
        text(here / "out_of_view.txt", ",".join(map(str, out)) + "\n")
        text(here / "nlp.txt", "white airplane")
    text(root / "training_set.txt", "airplane-1\nt-shirt-2\nairplane-9\n")
    text(root / "testing_set.txt", "t-shirt-2\n")
    return root


def got10k(root: Path, n: int = 21) -> Path:
    """train: two sequences, one with an absence; val: one; test: one row of truth."""
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        names = [f"GOT-10k_{split.title()}_{k + 1:06d}" for k in range(count)]
        for k, name in enumerate(names):
            here = root / split / name
            for i in range(3 if split == "test" else n):
                picture(here / f"{i + 1:08d}.jpg", i)
            text(here / "groundtruth.txt", rows(moving(1 if split == "test" else n)))
            if split != "test":
                absent = np.zeros(n, int)
                absent[2] = k == 0
                text(here / "absence.label", "\n".join(map(str, absent)) + "\n")
                text(here / "cover.label", "8\n" * (n - 2) + "0\n4\n")
                meta = "[METAINFO]\nurl: https://x.org/a:b\nobject_class: bear\nresolution: (64, 48)\n"
                text(here / "meta_info.ini", meta)
        text(root / split / "list.txt", "\n".join(names) + "\n")
    return root


def trackingnet(root: Path, n: int = 21) -> Path:
    """TRAIN_0 and TRAIN_3; frames from 0 without zeros in front; one sequence without frames."""
    for chunk, name in (("TRAIN_0", "abc-1_0"), ("TRAIN_3", "xyz_0")):
        text(root / chunk / "anno" / f"{name}.txt", rows(moving(n)))
        for i in range(n):
            picture(root / chunk / "frames" / name / f"{i}.jpg", i)
    text(root / "TRAIN_3" / "anno" / "lost_0.txt", rows(moving(5)))
    text(root / "TEST" / "anno" / "t_0.txt", rows(moving(1)))
    for i in range(12):
        picture(root / "TEST" / "frames" / "t_0" / f"{i}.jpg", i)
    return root


def otb(root: Path) -> Path:
    """Mixed delimiters, two targets, Tiger1 with rows before its first frame, David from picture 300 on."""
    for name, first, last, delimiter in (("Basket", 1, 6, "\t"), ("Jogging", 1, 5, ","), ("Tiger1", 1, 354, " ")):
        for i in range(first, min(last, 8) + 1):
            picture(root / name / "img" / f"{i:04d}.jpg", i)
        if name == "Jogging":
            for k in (1, 2):
                text(root / name / f"groundtruth_rect.{k}.txt", rows(moving(last, x=10 * k), delimiter))
        else:
            text(root / name / "groundtruth_rect.txt", rows(moving(last - first + 1), delimiter))
    for i in (300, 301):
        picture(root / "David" / "img" / f"{i:04d}.jpg", i)
    text(root / "David" / "groundtruth_rect.txt", rows(moving(471)))
    return root


def coco(root: Path) -> Path:
    """A crowd, a category of id 90, a box without extent, a picture without boxes, one that is lost."""
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in (9, 25, 30, 41)]
    for i in (9, 25, 30):
        picture(root / "train2017" / f"{i:012d}.jpg", i)
    note = lambda k, i, c, box, crowd=0: {  # noqa: E731
        "id": k, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd, "segmentation": [[1, 2, 3]],
    }  # fmt: skip
    annotations = [
        note(100, 9, 1, [4.5, 5, 20, 16]), note(101, 9, 90, [30, 10, 12.25, 14]), note(102, 25, 1, [0, 0, 9, 9], 1),
        note(103, 25, 1, [3, 3, 0, 5]), note(104, 41, 1, [3, 3, 5, 5]),
    ]  # fmt: skip
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    text(root / "annotations" / "instances_train2017.json", json.dumps(content))
    return root


def crowdhuman(root: Path) -> Path:
    """A mask, an ignored person, a box that leaves the picture, a picture with nobody, one that is lost."""
    person = lambda box, **extra: {"tag": "person", "fbox": box, "hbox": box, "vbox": box, "extra": extra}  # noqa: E731
    lines = [
        {"ID": "a,1", "gtboxes": [
            person([-5, 2, 20, 40], box_id=0, occ=0), person([20, 4, 15, 30], box_id=1, ignore=1),
            person([30, 3, 18, 38], box_id=2, ignore=0), {"tag": "mask", "fbox": [0, 0, 9, 9], "extra": {"ignore": 1}},
        ]},
        {"ID": "b,2", "gtboxes": [{"tag": "mask", "fbox": [0, 0, 9, 9]}]},
        {"ID": "c,3", "gtboxes": [person([1, 1, 9, 9])]},
    ]  # fmt: skip
    text(root / "annotation_train.odgt", "\n".join(json.dumps(line) for line in lines) + "\n")
    for name in ("a,1", "b,2"):
        picture(root / "Images" / f"{name}.jpg")
    return root


def mot_rows(n: int) -> list[list[float]]:
    """Two walkers, one hidden in frame 4; a car, a reflection, a static person that does not count."""
    found = []
    for i in range(n):
        found.append([i + 1, 1, 5 + i, 6, 12, 30, 1, 1, 0.1 if i == 3 else 1])
        found.append([i + 1, 2, 40 - i, 8, 12, 32, 1, 1, 0.9])
        found.append([i + 1, 7, 20, 10, 15, 10, 0, 3, 1])
        found.append([i + 1, 8, 50, 4, 10, 30, 0, 12, 1])
        found.append([i + 1, 9, 30, 12, 10, 30, 0, 7, 1])
    return found


def mot(root: Path, name: str = "MOT17-02", n: int = 21, detectors=("DPM", "FRCNN", "SDP")) -> Path:
    """Three detector copies; CRLF in seqinfo.ini; frame 5 has no picture."""
    for detector in detectors or ("",):
        here = root / "train" / (f"{name}-{detector}" if detector else name)
        for i in range(n):
            if i != 4:
                picture(here / "img1" / f"{i + 1:06d}.jpg", i)
        text(here / "gt" / "gt.txt", rows(mot_rows(n)))
        text(here / "det" / "det.txt", rows([[i + 1, -1, 5 + i, 6, 12, 30, 0.9] for i in range(n)]))
        info = ["[Sequence]", f"name={here.name}", "imDir=img1", "frameRate=30", f"seqLength={n}", "imWidth=64"]
        text(here / "seqinfo.ini", "\r\n".join([*info, "imHeight=48", "imExt=.jpg", ""]))
    return root
