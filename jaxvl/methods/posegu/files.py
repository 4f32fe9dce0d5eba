"""Lift joints of your own to 3-D with a trained PoseGU (reconstruction), and draw poses from its generator."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxvl.arguments import PICTURES, picture, place, positive, whole
from jaxvl.core import model
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import keep, printable, write_text
from jaxvl.core.session import Loaded
from jaxvl.data.readers.poses import joints as own
from jaxvl.data.readers.poses.checks import check_upright
from jaxvl.data.skeletons import H36M16
from jaxvl.methods.posegu import generator
from jaxvl.methods.posegu.data import STREAM
from jaxvl.methods.posegu.generator import Generated
from jaxvl.methods.posegu.method import somebody
from jaxvl.methods.posegu.recipe import Seeds
from jaxvl.methods.posegu.results import pictures, results_tables
from jaxvl.viz import poses as drawing
from jaxvl.viz import skeleton

__all__ = ["Model", "add_arguments", "pictures", "results_tables", "run"]

NAME = "PoseGU (reconstruction)"
SHEET = 8  # lifted poses on a sheet
DRAWN = 32  # generated poses on a sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `jaxvl predict` for this method."""
    parser.add_argument(
        "--joints",
        type=place,
        metavar="FILE",
        help="joints in 2-D (.json, .npz, .npy, .csv), or a folder of such files: COCO's 17 or Human3.6M's 16",
    )
    parser.add_argument(
        "--size", nargs=2, type=positive, metavar=("W", "H"), help="pixels of the pictures, where the file does not say"
    )
    text = f"order of the joints: {', '.join(own.LAYOUTS)}; default: by their number"
    parser.add_argument("--layout", choices=tuple(own.LAYOUTS), default="", help=text)
    parser.add_argument("--generate", type=whole(1), metavar="N", help="draw N poses from the generator instead")
    text = "with --generate: poses in 3-D to draw others from (.npz, .json, .npy, .csv; metres, z up)"
    parser.add_argument("--seeds", type=place, metavar="FILE", help=text)
    parser.add_argument("--draw-seed", type=whole(0), default=0, metavar="K", help="of what --generate draws")
    text = "a picture of the poses (.png, .jpg); default WORKDIR/poses.png or WORKDIR/generated.png"
    parser.add_argument("--out", type=picture, metavar="PICTURE", help=text)
    text = "the poses as .json or .npz; default of --generate: WORKDIR/generated.npz"
    parser.add_argument("--write", type=written, metavar="FILE", help=text)
    parser.add_argument("--no-picture", action="store_true", help="no picture")


def written(text: str) -> str:
    """A file of poses to write."""
    name = place(text)
    if Path(name).suffix.lower() not in (".json", ".npz") or Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: name a .json or .npz file")
    return name


def run(loaded: Loaded, args: argparse.Namespace, as_json: bool) -> int:
    """Lifts the joints, or draws poses; prints and draws them, writes them where that was asked for."""
    say = lambda line: print(printable(line), file=sys.stderr)  # noqa: E731
    if bool(args.joints) == bool(args.generate):
        raise InputError("--joints: name joints to lift, or --generate N to draw poses; one of the two")
    if args.seeds and not args.generate:
        raise InputError("--seeds: belongs to --generate")
    if args.generate and (args.size or args.layout):
        raise InputError("--size and --layout: belong to --joints")
    network = Model(loaded, say)
    return _draw(network, args, as_json, say) if args.generate else _lift(network, args, as_json, say)


def _lift(network: Model, args: argparse.Namespace, as_json: bool, say: Callable[[str], None]) -> int:
    found, skipped = [], []
    size = tuple(args.size) if args.size else None
    for path in own.find_joints(args.joints):
        before = len(skipped)
        try:
            found.append(own.read_joints(path, size, args.layout, skipped))
        except BadMedia as bad:
            skipped.append(bad)
        for bad in skipped[before:]:
            say(f"skipped {bad}")
    if not found:
        raise InputError(f"--joints {args.joints}: none of its {len(skipped)} files can be read: {skipped[0]}")
    names, x2d = [n for one in found for n in one.names], np.concatenate([one.x2d for one in found])
    if any(one.layout == "coco17" for one in found):
        off = ", ".join(f"{name} {mm}" for name, mm in own.ESTIMATED_MM.items())
        say(
            "COCO's joints: hip, spine, thorax and head are estimated from the others (on motion capture, in mm off: "
            f"{off}; head not measured)"
        )
    x3d = network.predicted(x2d)
    rows = [
        {"path": name, "joints": np.round(x.astype(float), 6).tolist(), **facing(x)}
        for name, x in zip(names, x3d, strict=True)
    ]
    content = {
        "joint_names": list(H36M16.joints),
        "unit": "metres",
        "axes": "x right, y down, z forward",
        "poses": rows,
    }
    out = Path(args.write) if args.write else None
    if out is not None:
        arrays = {"joints": x3d, "x2d": x2d, "names": np.array(names), "joint_names": np.array(H36M16.joints)}
        keep(out, lambda unfinished: _write(unfinished, out, content, arrays), True, say)
    shown = None
    if not args.no_picture:
        make = lambda: lifted_sheet(names, x2d, x3d)  # noqa: E731
        shown = _picture(args.out, network.loaded.workdir / "poses.png", make, say)
    lost = [{"path": bad.path, "reason": bad.reason} for bad in skipped]
    if as_json:
        print(json.dumps({**content, "skipped": lost, "picture": shown, "written": args.write}))
        return 0
    for row in rows:
        print(printable(f"{row['path']}: {row['seen']}, torso {1000 * row['torso_m']:.0f} mm"))
    _told(shown, args.write)
    return 0


def _draw(network: Model, args: argparse.Namespace, as_json: bool, say: Callable[[str], None]) -> int:
    seeds = own.read_world(args.seeds) if args.seeds else None
    found = network.generate(args.generate, args.draw_seed, seeds)
    out = Path(args.write or network.loaded.workdir / "generated.npz")
    rows = [
        {"joints": np.round(p.astype(float), 6).tolist(), "seed": int(s), "log_p": float(a), "log_q": float(b)}
        for p, s, a, b in zip(found.pose, found.seed, found.log_p, found.log_q, strict=True)
    ]
    content = {"joint_names": list(H36M16.joints), "unit": "metres", "axes": "z up", "poses": rows}
    arrays = {"joints": found.pose, **{k: v for k, v in found._asdict().items() if k not in ("pose", "valid")}}
    arrays["joint_names"] = np.array(H36M16.joints)
    kept = keep(out, lambda unfinished: _write(unfinished, out, content, arrays), bool(args.write), say)
    shown = None
    if not args.no_picture:
        make = lambda: drawing.sheet(found.pose[:DRAWN], H36M16, [f"seed {s}" for s in found.seed[:DRAWN]])  # noqa: E731
        shown = _picture(args.out, network.loaded.workdir / "generated.png", make, say)
    ratio = found.log_q - found.log_p
    summary = {
        "poses": len(found.pose),
        "log_p": [float(found.log_p.min()), float(found.log_p.max())],
        "log_q_minus_log_p": [float(ratio.min()), float(ratio.max())],
        "written": kept and str(kept),
        "picture": shown,
    }
    if as_json:
        print(json.dumps(summary))
        return 0
    print(f"{len(found.pose):,} poses; log p from {found.log_p.min():.2f} to {found.log_p.max():.2f}")
    _told(shown, summary["written"])
    return 0


def _told(shown: str | None, path: str | None) -> None:
    if path:
        print(f"written: {path}")
    if shown:
        print(f"picture: {shown}")


def _picture(
    asked: str | None, default: Path, make: Callable[[], Image.Image], say: Callable[[str], None]
) -> str | None:
    out = Path(asked or default)
    sheet = make()
    kept = keep(out, lambda unfinished: sheet.save(unfinished, format=PICTURES[out.suffix.lower()]), bool(asked), say)
    return kept and str(kept)


def _write(unfinished: Path, out: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    if out.suffix.lower() == ".json":
        write_text(unfinished, json.dumps(content))
    else:
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)


def facing(x: np.ndarray) -> dict[str, Any]:
    """Where a body `[16, 3]` in the camera's axes looks, in words and degrees (0: into the camera, 90: to the picture's
    right), and how long its torso is in metres."""
    up, across = x[8] - x[0], x[4] - x[1]
    forward = np.cross(across, up)
    degrees = float(np.degrees(np.arctan2(forward[0], -forward[2])))
    words = ("into the camera", "to the right", "away", "to the left")[round(degrees / 90) % 4]
    return {
        "seen": f"looks {words}",
        "facing_degrees": round(degrees, 1),
        "torso_m": round(float(np.linalg.norm(up)), 4),
    }


def lifted_sheet(names: Sequence[str], x2d: np.ndarray, x3d: np.ndarray) -> Image.Image:
    """Up to `SHEET` poses, spread evenly, a row each: the joints that were given, and the pose from three sides."""
    rows = []
    for i in np.unique(np.linspace(0, len(x3d) - 1, min(SHEET, len(x3d))).astype(int)):
        row = drawing.three_sides(x3d[i], H36M16, x2d[i])
        rows.append(skeleton.headed(row, f"{Path(names[i]).name}: {facing(x3d[i])['seen']}", 12))
    return drawing.images.grid(rows, 1)


class Model(model.Model):
    """A trained PoseGU (reconstruction) with the verbs `lift` and `generate`."""

    name = NAME

    def __init__(self, loaded: Loaded, say: Callable[[str], None]):
        self.loaded, self.say = loaded, say
        self.source = f"{loaded.workdir}, step {loaded.step}"

    def lift(self, poses: Sequence[Any], size: tuple[float, float] | None = None, layout: str = "") -> np.ndarray:
        """Joints in 2-D -> float32 `[n, 16, 3]`, metres, relative to the hip, in the camera's axes (x right, y down, z
        forward), in the order of `jaxvl.data.skeletons.H36M16`.

        poses: each a path (`.json`, `.npz`, `.npy`, `.csv`; all poses of the file), or an array `[16, 2]` (Human3.6M)
        or `[17, 2]` (COCO), with a third column its confidences, or `[k, ...]` of several. size: width and height of
        the pictures; without it joints are normalised already, or the file says. layout: one of
        `jaxvl.data.readers.poses.joints.LAYOUTS`, where the number of joints does not say. Raises BadMedia.
        """
        found = []
        for number, given in enumerate(model.listed(poses, "poses")):
            if isinstance(given, str | Path):
                found.append(own.read_joints(given, size, layout))
            else:
                found.append(own.as_joints(given, f"pose {number}", size=size, layout=layout))
        return self.predicted(np.concatenate([one.x2d for one in found]))

    def predicted(self, x2d: np.ndarray) -> np.ndarray:
        """Normalised joints `[n, 16, 2]` -> `[n, 16, 3]`."""
        call = lambda batch: self.loaded.predict(self.loaded.variables, {STREAM: batch})  # noqa: E731
        out = model.in_batches(call, {"x2d": np.asarray(x2d, np.float32)}, self.loaded.config.data.eval_batch_size)
        return out["x3d"].astype(np.float32)

    def generate(self, count: int, seed: int = 0, seeds: np.ndarray | None = None) -> Generated:
        """`count` valid poses with what they were made from and their densities, numpy.

        seed: of what is drawn. seeds: poses `[n, 16, 3]` in metres with z up to draw from, each seen by a camera that
        is drawn; without them those that the run was trained with. Raises InputError where it has none, and for seeds
        in another unit or with swapped sides; says it where they do not stand along z.
        """
        if not isinstance(count, int | np.integer) or count < 1:
            raise InputError(f"count: needs a whole number of at least 1, got {count!r}")
        settings = generator.settings_of(self.loaded.config)
        if seeds is not None:
            world = own.as_world(seeds, "seeds")
            try:
                check_upright(world, "seeds")
            except InputError as error:  # somebody may lie; as far as can be seen
                self.say(f"{error}; drawn from as they are")
            around = somebody(len(world))
            held = around._replace(world=jnp.asarray(world), count=jnp.asarray(len(world), jnp.int32))
            settings = dataclasses.replace(settings, cameras="random")
        elif "seeds" in self.loaded.variables:
            held = Seeds(**self.loaded.variables["seeds"])
        else:
            raise InputError(
                f"{self.loaded.workdir}: was trained without a generator, so it has no seeds; give poses of your own "
                "(--seeds FILE)"
            )
        return generator.generate_valid(jax.random.key(seed), held, settings, int(count))
