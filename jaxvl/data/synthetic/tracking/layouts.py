"""The tracking world on disk: one render, written as LaSOT and as MOT17.

    ROOT/world.jsonl                                      the only truth, a line a sequence; ROOT/world_stamp.json
    ROOT/lasot/CLASS/CLASS-N/{img/00000001.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt, nlp.txt}
    ROOT/lasot/{training_set,testing_set}.txt             the first shape of each sequence is the target
    ROOT/mot17/{train,test}/MOT17-N-FRCNN/{img1/000001.jpg, gt/gt.txt, det/det.txt, seqinfo.ini}

Unlike the benchmark's, the test folder has its truth. `det.txt` holds the true boxes of what shows, displaced a little,
some left out. No jax here: rendering runs in spawned processes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxvl.data.synthetic import on_disk
from jaxvl.data.synthetic.sprites.deal import keyed_rng
from jaxvl.data.synthetic.sprites.render import Rendered, render_states
from jaxvl.data.synthetic.tracking.world import SPLITS, Scene, TrackingWorldConfig, plan_scene

WORLD_VERSION = 1
SHOWS = 0.1
"""Least visible share of a shape that counts as there."""
LISTS = {"train": "training_set.txt", "test": "testing_set.txt"}


def ensure_tracking_world(
    config: TrackingWorldConfig,
    root: str | Path,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Makes sure that `root` holds the world; see `on_disk.ensure`."""
    items = [
        on_disk.Item(f"{split}-{i}", f"{mot_folder(config, split, i)}/seqinfo.ini", (config, split, i))
        for split in SPLITS
        for i in range(config.count(split))
    ]
    stamp = on_disk.make_stamp(WORLD_VERSION, "tracking", config)
    return on_disk.ensure(root, stamp, items, _render_item, write_lists, processes, progress)


def number(config: TrackingWorldConfig, split: str, index: int) -> int:
    """Running number of a sequence over train and test, from 1."""
    return index + 1 + (config.num_train if split == "test" else 0)


def mot_folder(config: TrackingWorldConfig, split: str, index: int) -> str:
    """Where a sequence lies in MOT17's layout."""
    return f"mot17/{split}/MOT17-{number(config, split, index):02d}-FRCNN"


def lasot_name(scene: Scene, config: TrackingWorldConfig) -> str:
    """Name of a sequence in LaSOT's layout, `star-7`."""
    return f"{scene.sprites[0].noun}-{number(config, scene.split, scene.index)}"


def _render_item(item: on_disk.Item, last: str, save: on_disk.Save) -> None:
    config, split, index = item.what
    scene = plan_scene(config, split, index)
    rendered = render_states(scene.background, config.image_size, config.fps, scene.sprites, scene.states)
    root = Path(last).parents[3]
    name = lasot_name(scene, config)
    save(lambda: {"split": split, "index": index, "lasot": name, "alike": scene.alike, "mot": item.video})
    lasot = root / "lasot" / name.rsplit("-", 1)[0] / name
    mot = Path(last).parent
    for folder in (lasot / "img", mot / "img1", mot / "gt", mot / "det"):
        folder.mkdir(parents=True, exist_ok=True)
    for f, frame in enumerate(rendered.frames, 1):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=95)
        on_disk.write(lasot / "img" / f"{f:08d}.jpg", file.getvalue())
        on_disk.write(mot / "img1" / f"{f:06d}.jpg", file.getvalue())
    write_lasot(lasot, scene, rendered)
    write_mot(mot, config, scene, rendered)


def write_lasot(folder: Path, scene: Scene, rendered: Rendered) -> None:
    """The text files of a sequence, whose target is the first shape."""
    track = rendered.tracks[0]
    rows, hidden, outside = [], [], []
    for box, share in zip(track.box_full, track.visible_fraction):
        left, top, right, bottom = box or (0, 0, 0, 0)
        rows.append(f"{left:g},{top:g},{right - left:g},{bottom - top:g}")
        outside.append(int(box is None))
        hidden.append(int(box is not None and share < SHOWS))
    on_disk.write(folder / "groundtruth.txt", "\n".join(rows) + "\n")
    on_disk.write(folder / "full_occlusion.txt", ",".join(map(str, hidden)) + "\n")
    on_disk.write(folder / "out_of_view.txt", ",".join(map(str, outside)) + "\n")
    sprite = scene.sprites[0]
    on_disk.write(folder / "nlp.txt", f"{sprite.texture} {sprite.colour} {sprite.noun}\n")


def write_mot(folder: Path, config: TrackingWorldConfig, scene: Scene, rendered: Rendered) -> None:
    """`gt.txt` (a shape that hardly shows does not count), `det.txt`, and last `seqinfo.ini`."""
    rng = keyed_rng(config.seed, scene.split, "detections", scene.index)
    truth, found = [], []
    for track in rendered.tracks:
        for f, (box, share) in enumerate(zip(track.box_full, track.visible_fraction), 1):
            if box is None:
                continue
            left, top, right, bottom = box
            counts = int(share >= SHOWS)
            shape = f"{left + 1:.2f},{top + 1:.2f},{right - left:.2f},{bottom - top:.2f}"
            truth.append((f, track.id + 1, f"{f},{track.id + 1},{shape},{counts},1,{share:.4f}"))
            noise, score = rng.normal(0, 0.03, 4) * (right - left), rng.uniform(0.5, 1)
            if share >= 0.3 and rng.random() > 0.05:
                near = np.array([left + 1, top + 1, right - left, bottom - top]) + noise
                row = ",".join(f"{v:.2f}" for v in near)
                found.append((f, track.id, f"{f},-1,{row},{score:.3f}"))
    on_disk.write(folder / "gt" / "gt.txt", "".join(f"{line}\n" for _, _, line in sorted(truth)))
    on_disk.write(folder / "det" / "det.txt", "".join(f"{line}\n" for _, _, line in sorted(found)))
    size = config.image_size
    info = {
        **{"name": folder.name, "imDir": "img1", "frameRate": config.fps, "seqLength": config.frames},
        **{"imWidth": size, "imHeight": size, "imExt": ".jpg"},
    }
    lines = ["[Sequence]", *(f"{k}={v}" for k, v in info.items())]
    on_disk.write(folder / "seqinfo.ini", "\n".join(lines) + "\n")


def write_lists(records: Sequence[dict], root: Path) -> None:
    """LaSOT's lists of training and testing sequences."""
    os.makedirs(root / "lasot", exist_ok=True)
    for split, name in LISTS.items():
        lines = [r["lasot"] for r in records if r["split"] == split]
        on_disk.write(root / "lasot" / name, "".join(f"{line}\n" for line in lines))
