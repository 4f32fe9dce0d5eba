"""Poses to PoseGU's batches: training pairs, seeds of the generator, data sets of the test; see `recipe` for the fields
of a batch."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Data, Examples
from jaxvl.data.readers.poses import h36m, h36m_cameras, motions, mpi_inf_3dhp, threedpw
from jaxvl.data.readers.poses.pairs import PosePair, PosePairs, PoseSeeds, pair_name
from jaxvl.data.readers.poses.seeds import parse_seeds
from jaxvl.data.sources import Repeated
from jaxvl.methods.posegu.recipe import real_rows

STREAM = "poses"
MOCAP, H36M = "mocap", "h36m"


@dataclasses.dataclass(frozen=True)
class MakePair:
    """`PosePair -> one row`: `x2d [16, 2]` and, in training, `x3d [16, 3]`; in tests what the evaluator needs, on the
    host. actions: their names, of a test."""

    actions: tuple[str, ...] = ()

    def __call__(self, pair: PosePair, rng: np.random.Generator) -> dict[str, Any]:
        """Nothing is drawn."""
        del rng
        if not self.actions:
            return {"x2d": pair.x2d, "x3d": pair.x3d}
        place = {"_action": self.actions[pair.action], "_clip": pair.clip, "_frame": pair.frame}
        return {"x2d": pair.x2d, "_x3d": pair.x3d} | place


@dataclasses.dataclass(frozen=True)
class MakeSeen:
    """`(name, world [16, 3]) -> one training row`: the pose before a camera that is drawn."""

    def __call__(self, seed: tuple[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
        """Draws the camera."""
        x2d, x3d = motions.see(seed[1], rng)
        return {"x2d": x2d, "x3d": x3d}


def seed_name(seed: tuple[str, np.ndarray]) -> str:
    """What logs call a seed."""
    return seed[0]


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d, lacking = config.data, []
    if not d.root and H36M in (d.reader, *d.test):
        lacking.append(f"data.root: {LAYOUTS[H36M]}")
    return lacking + [
        f"data.root_{name}: {LAYOUTS[name]}" for name in ("3dhp", "3dpw") if name in d.test and not d[f"root_{name}"]
    ]


class Files:
    """What `config.data` names, each read once and when it is asked for."""

    def __init__(self, config: ConfigDict):
        self.config, self.data = config, config.data

    @functools.cached_property
    def h36m(self) -> h36m.Human36M:
        """Human3.6M."""
        return h36m.Human36M(self.data.root, self.data.keypoints)

    def training(self) -> tuple[PoseSeeds, PosePairs | None]:
        """The seeds, and what cameras saw of them; None where cameras are drawn. Raises InputError."""
        if self.data.reader == MOCAP:
            return motions.read_seeds(self.data.seeds, self.data.seed_every), None
        return self.h36m.training(parse_seeds(self.data.seeds), self.config.seed)

    def test(self, name: str) -> PosePairs:
        """A data set of the test. Raises InputError."""
        d = self.data
        if name == H36M:
            return self.h36m.test()
        if name == "3dhp":
            return mpi_inf_3dhp.read_test(d.root_3dhp, d.target_3dhp)
        if name == "3dpw":
            return threedpw.read_split(d.root_3dpw, "test")
        return motions.read_test(motions.clips_of(d.seeds) if d.reader == MOCAP else ())


def build_data(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> Data:
    """Reads what is trained on and every data set of `config.data.test`. Raises InputError."""
    del workdir, say
    if lacking := needs(config):
        raise InputError(f"config.{lacking[0].replace(': ', ': is empty; name ', 1)}")
    d, files = config.data, Files(config)
    seeds, pairs = files.training()
    source, make, name = (seeds, MakeSeen(), seed_name) if pairs is None else (pairs, MakePair(), pair_name)
    reports = [seeds.report.line(), *([pairs.report.line()] if pairs is not None else [])]
    rows = real_rows(config)
    if len(source) < rows:  # a few seeds, seen again and again
        source = Repeated(source, math.ceil(rows / len(source)))
    splits: dict[str, Examples] = {}
    for data_set in dict.fromkeys(d.test):
        found = files.test(data_set)
        splits[data_set] = Examples(found, MakePair(found.actions), pair_name, d.eval_batch_size)
        reports.append(found.report.line())
    constants: dict[str, np.ndarray] = {}
    if config.model.generated:
        from jaxvl.methods.posegu import generator  # imports jax, which decoder processes must not

        laid = seed_set(config, seeds)
        generator.check_survival(laid["world"][: len(seeds)], generator.settings_of(config))
        constants = {f"seeds/{k}": v for k, v in laid.items()}
    return Data({STREAM: Examples(source, make, name, rows)}, {"test": splits}, reports, constants)


def seed_set(config: ConfigDict, seeds: PoseSeeds | None = None) -> dict[str, np.ndarray]:
    """What `Seeds` holds, by field: the seeds with zeros behind them up to `config.data.seed_capacity` rows, and the
    cameras where the data set has any. Raises InputError where there is no room for all."""
    d = config.data
    seeds = seeds if seeds is not None else Files(config).training()[0]
    if len(seeds) > d.seed_capacity:
        raise InputError(f"config.data.seed_capacity: {d.seed_capacity}, but there are {len(seeds):,} seeds; raise it")
    world = np.zeros((d.seed_capacity, *seeds.world.shape[1:]), np.float32)
    subject = np.zeros(d.seed_capacity, np.int32)
    world[: len(seeds)], subject[: len(seeds)] = seeds.world, seeds.subject
    out = {"world": world, "count": np.array(len(seeds), np.int32), "subject": subject}
    return out if d.reader == MOCAP else out | camera_set()


def camera_set() -> dict[str, np.ndarray]:
    """The camera fields of `Seeds` for Human3.6M."""
    places = [h36m_cameras.extrinsics(subject) for subject in h36m_cameras.SUBJECTS]
    spread = lambda x: np.broadcast_to(x, (len(places), *x.shape)).copy()  # noqa: E731
    return {
        "cameras_q": np.stack([q for q, _ in places]),
        "cameras_t": np.stack([t for _, t in places]),
        "cameras_k": spread(h36m_cameras.intrinsics()),
        "aspect": spread(h36m_cameras.aspects()),
    }


LAYOUTS = {
    H36M: "the folder of data_3d_h36m.npz and data_2d_h36m_*.npz",
    "3dhp": "test_3dhp.npz or mpi_inf_3dhp_valid.npz, or the folder of TS1 to TS6",
    "3dpw": "the folder sequenceFiles of 3DPW",
}
"""Data set -> what its root is."""
