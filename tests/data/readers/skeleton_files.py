"""Writes skeleton sequences in the published layouts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from jaxvl.data.readers.skeletons.utkinect import ACTIONS
from jaxvl.data.skeletons import NTU25

STATE = "0 1 0 1 1 0 0.1 -0.2 2"


def person(rng, frames, joints=25, at=(0.0, 0.0, 3.0)):
    """`[F, J, 3]` float32, higher than wide, moving a little."""
    rest = rng.uniform(-1, 1, (joints, 3)) * [0.3, 0.9, 0.1]
    return (rest + rng.normal(0, 0.05, (frames, joints, 3)).cumsum(0) * 0.2 + at).astype(np.float32)


def skeleton_text(frames, newline="\n", promised=None):
    """frames: `[[(body id, joints [25, 3])]]`."""
    lines = [str(len(frames) if promised is None else promised)]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for name, joints in bodies:
            lines += [f"{name} {STATE}", str(len(joints))]
            lines += [" ".join([*(f"{v:.9g}" for v in p), "1 2 3 4 0.5 0.5 0.5 0.5 2"]) for p in joints]
    return newline.join(lines) + newline


def write_ntu(root, names, seed=0, frames=14, two=lambda name: False):
    """A `.skeleton` file for each name, one body in each frame (two where `two(name)`)."""
    rng = np.random.default_rng(seed)
    folder = Path(root) / "nturgb+d_skeletons"
    folder.mkdir(parents=True)
    for name in names:
        bodies = [person(rng, frames, at=(k, 0, 3)) for k in range(1 + two(name))]
        text = skeleton_text([[(72057594037931101 + k, b[f]) for k, b in enumerate(bodies)] for f in range(frames)])
        (folder / f"{name}.skeleton").write_text(text)
    return folder


def ntu_names(actions=(1, 50, 60), performers=(1, 3), cameras=(1, 2), setups=(1, 2)):
    return [
        f"S{s:03d}C{c:03d}P{p:03d}R001A{a:03d}" for s in setups for c in cameras for p in performers for a in actions
    ]


def write_arrays(path, clips, classes, copy_lone=False, length=40, save=np.savez, onehot=True):
    """clips: `{split: [(label, bodies [M, F, 25, 3])]}`, as the public scripts write them."""
    arrays = {}
    for split, items in clips.items():
        x = np.zeros((len(items), length, 150), np.float32)
        y = np.zeros((len(items), classes))
        for row, (label, bodies) in enumerate(items):
            both = [*bodies, bodies[0] if copy_lone else np.zeros_like(bodies[0])][:2]
            x[row, : bodies.shape[1]] = np.stack(both).transpose(1, 0, 2, 3).reshape(bodies.shape[1], 150)
            y[row, label] = 1
        arrays |= {f"x_{split}": x, f"y_{split}": y if onehot else y.argmax(1)}
    save(path, **arrays)


def write_annotations(path, clips, protocol="xsub", protocol_version=4):
    """clips: `{part: [(name, label, bodies)]}`, part of train and val."""
    items = [
        {
            "frame_dir": name,
            "label": label,
            "keypoint": bodies.astype(np.float16),
            "total_frames": bodies.shape[1],
        }
        for part in clips.values()
        for name, label, bodies in part
    ]
    split = {f"{protocol}_{part}": [name for name, _, _ in items_] for part, items_ in clips.items()}
    with open(path, "wb") as file:
        pickle.dump({"split": split, "annotations": items}, file, protocol=protocol_version)


def write_utkinect(root, recordings, frames=6, seed=0, nan=("s10_e02", "carry")):
    """Two frame numbers apart, one line twice, every action `frames` frames long."""
    rng = np.random.default_rng(seed)
    root = Path(root)
    (root / "joints").mkdir(parents=True)
    labels, truth = [], {}
    for recording in recordings:
        labels.append(recording)
        number, rows = 200, []
        for action in ACTIONS:
            joints = person(rng, frames, 20)
            first = number
            for k in range(frames):
                rows.append((number, joints[k]))
                if k == 1:
                    rows.append((number, joints[k] + 1))  # the number a second time
                number += 2
            truth[f"{recording}/{action}"] = joints
            there = (recording, action) != nan
            labels.append(f"{action}: {first} {number - 2}" if there else f"{action}: NaN NaN")
            if not there:
                del truth[f"{recording}/{action}"]
            number += 10
        text = "\n".join("  ".join([str(n), *(f"{v:.7e}" for v in p.ravel())]) for n, p in rows)
        (root / "joints" / f"joints_{recording}.txt").write_text(text + "\n")
    (root / "actionLabel.txt").write_text("\n".join(labels) + "\n")
    return truth


def write_csv(path, bodies, skeleton=NTU25):
    """`[M, F, J, 3]`; absent frames of a body get no line."""
    header = ["frame", "body", *(f"{c}{j}" for j in range(len(skeleton)) for c in "xyz")]
    lines = [",".join(header)]
    for frame in range(bodies.shape[1]):
        for body in range(len(bodies)):
            if bodies[body, frame].any():
                lines.append(",".join([str(frame), str(body), *(repr(float(v)) for v in bodies[body, frame].ravel())]))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join(lines) + "\n")
