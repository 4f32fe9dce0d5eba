"""Config fields of PoseGU (reconstruction), its recipes, and the arrays that data, generator and model share.

Joints are the sixteen of `jaxvl.data.skeletons.H36M16`. Training stream `poses`, without the batch axis:

- `x2d` float32 `[16, 2]`: joints in the picture, normalised (x in [-1, 1], y in [-h/w, h/w], y down)
- `x3d` float32 `[16, 3]`: the same joints in camera axes (x right, y down, z forward), metres, absolute; rooted in the
  loss

On the host `_id`. A split has one stream a data set (`h36m`, `3dhp`, `3dpw`, `mocap`) with `x2d`, and on the host
`_x3d`, `_action`, `_clip` and `_frame`, a name and two ints. `Method.predict` reads `x2d` alone and gives `x3d` float32
`[B, 16, 3]`, metres, joint 0 at the origin.

With the generator on, `Data.constants` lays `Seeds` into the collection `seeds`, under the names of its fields. Of
H3.6M S = 7 subjects (order of `SUBJECTS`) with C = 4 cameras each are laid, whichever are trained on; of motion
capture, whose cameras are drawn, the camera arrays keep what `init` put there. P is `config.data.seed_capacity`; rows
from `count` on are never drawn.

Nobody could read the method section of the paper for this: only its abstract. What the abstract says is kept, all
numbers are choices of the reconstruction, and each is a field here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.core.fields import choice, flag, folder, many, named, only, real, text, whole

Array = Any
"""NumPy's or JAX's."""

SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
"""Human3.6M's, in the order of `Seeds.cameras_q`."""
CAMERAS = 4
SIGMA_DEG = (40.0, 10.0, 10.0, 15.0, 30.0, 30.0, 30.0, 30.0, 45.0, 45.0, 45.0, 45.0)
"""Spread of the rotation of each of the twelve groups, degrees."""
LIFTERS = ("mlp", "vpose", "semgcn")
DATASETS = ("h36m", "3dhp", "3dpw", "mocap")
WEIGHTINGS = ("default", "snips", "clipped", "ips")


class Seeds(NamedTuple):
    """What new poses are made from.

    world `[P, 16, 3]`: metres, world axes with z up. count: how many of the P rows there are. subject `[P]` int32: row
    of the cameras. cameras_q `[S, C, 4]`: unit quaternions (w, x, y, z), camera to world. cameras_t `[S, C, 3]`: places
    of the cameras, metres. cameras_k `[S, C, 9]`: normalised intrinsics (fx fy cx cy k1 k2 k3 p1 p2). aspect `[S, C]`:
    height / width of their pictures.
    """

    world: Array
    count: Array
    subject: Array
    cameras_q: Array
    cameras_t: Array
    cameras_k: Array
    aspect: Array


def base() -> ConfigDict:
    """Every field of the method with its default: PoseGU on all of Human3.6M's training poses."""
    c = configs.base()
    c.method = "posegu"
    c.train.clip_norm = 1.0
    c.model = {
        "lifter": "mlp",  # vpose, semgcn
        "width": 1024,  # 128 of semgcn
        "stages": 2,  # residual stages of mlp; 4 of vpose and semgcn
        "dropout": 0.25,
        "start": "published",  # weights of mlp; or 'pytorch', the smaller ones of its layers
        "loss": "mse",  # or 'mpjpe'
        "flip": (),  # data sets whose predictions are averaged with those of the mirrored pose
        "generated": 0.5,  # share of generated poses in a batch; 0: no generator
        "gen": {
            "pool_size": 200_000,  # poses; rounded up to full batches
            "redraw": True,  # a new pool behind each pass over it; else the first one is sampled with replacement
            "sigma_deg": SIGMA_DEG,
            "theta_max_sigmas": 3.0,
            "theta_cap_deg": 180.0,
            "mix": ((1.0, 1.0),),  # (share, factor of all sigmas) of each component
            "delta": 0.15,  # length ratios are drawn from [1 - delta, 1 + delta]
            "fixed_group": 4,  # of bones, whose length is never changed
            "bone_length_mode": "ratio",  # or 'template', the lengths of five subjects
            "limits": "table",  # of joints; 'none', or the dotted name of a function [..., 16, 3] -> bool [...]
            "oversample": 4,  # poses drawn for one of the pool
            "root_jitter_m": 0.5,  # of the root on the ground, x and y, cameras of the data set
            "cameras": "dataset",  # of the seed's subject; or 'random', around the pose
            "views": 4,  # drawn for a pose; the first that sees it whole is taken, none: the pose is dropped
        },
        "crm": {
            "mode": "default",  # self-normalised, then clipped; snips: not clipped; clipped: no norm; ips: neither
            "alpha": 1 / 12,  # tempering of the density ratio; 'ips' takes 1
            "clip_m": 10.0,  # largest weight
            "target": "haar_ball",  # density; or the dotted name of a function (omega, settings) -> log q
            "lambda_var": 0.1,  # of the penalty on the variance of the weighted losses
        },
    }
    c.data = {
        "reader": "h36m",  # or mocap
        "root": "",  # folder of data_3d_h36m.npz and the 2-D files; '' of mocap, which comes with the package
        "keypoints": "gt",  # 2-D of Human3.6M: gt, cpn_ft_h36m_dbb, detectron_ft_h36m, hr
        "seeds": "S15678",  # training poses: '0.01S1', 'S1', 'S15', ..., 'seeds:N'; of mocap the name of a clip
        "seed_every": 1,  # of mocap: every so many frames
        "seed_capacity": 2**19,  # rows that the generator keeps for seeds
        "test": ("h36m",),  # data sets of split 'test': h36m, 3dhp, 3dpw, mocap
        "root_3dhp": "",  # test_3dhp.npz, or the folder of TS1 to TS6
        "root_3dpw": "",  # folder sequenceFiles
        "target_3dhp": "univ_annot3",  # or annot3, metres that are not normalised by height
        "averaging": "per_action",  # or per_frame
        "pck_joints": "all16",  # or official14
        "batch_size": 1024,  # real and generated poses together
        "eval_batch_size": 1024,
    }
    return c


FIELDS = {
    "precision.remat": only("none", "nothing in it is computed again"),
    "precision.scan_layers": only(False, "no blocks in it become a loop"),
    "model.lifter": choice(*LIFTERS),
    "model.width": whole(1, 2**14),
    "model.stages": whole(0, 64),
    "model.dropout": real(0, below=1),
    "model.start": choice("published", "pytorch"),
    "model.loss": choice("mse", "mpjpe"),
    "model.flip": many(choice(*DATASETS)),
    "model.generated": real(0, below=1),
    "model.gen.pool_size": whole(1, 2**30),
    "model.gen.redraw": flag(),
    "model.gen.sigma_deg": many(real(0, 1e4), 12, 12),
    "model.gen.theta_max_sigmas": real(above=0),
    "model.gen.theta_cap_deg": real(above=0, high=180),
    "model.gen.mix": many(many(real(above=0), 2, 2), 1),
    "model.gen.delta": real(0, below=1),
    "model.gen.fixed_group": whole(-1, 8),
    "model.gen.bone_length_mode": choice("ratio", "template"),
    "model.gen.limits": named("table", "none"),
    "model.gen.oversample": whole(1, 1024),
    "model.gen.root_jitter_m": real(0),
    "model.gen.cameras": choice("dataset", "random"),
    "model.gen.views": whole(1, 1024),
    "model.crm.mode": choice(*WEIGHTINGS),
    "model.crm.alpha": real(0),
    "model.crm.clip_m": real(above=0),
    "model.crm.target": named("haar_ball"),
    "model.crm.lambda_var": real(0),
    "data.reader": choice("h36m", "mocap"),
    "data.root": folder(),
    "data.keypoints": text(empty=False),
    "data.seeds": text(empty=False),
    "data.seed_every": whole(1, 2**20),
    "data.seed_capacity": whole(1, 2**24),
    "data.test": many(choice(*DATASETS), 1),
    "data.root_3dhp": folder(),
    "data.root_3dpw": folder(),
    "data.target_3dhp": choice("univ_annot3", "annot3"),
    "data.averaging": choice("per_action", "per_frame"),
    "data.pck_joints": choice("all16", "official14"),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""


def generated_rows(config: ConfigDict) -> int:
    """Generated poses of a batch. Raises InputError where the share leaves none of the one or the other kind."""
    batch, share = config.data.batch_size, config.model.generated
    rows = round(batch * share)
    if share and not 0 < rows < batch:
        kind = "real" if rows else "generated"
        raise InputError(f"config.model.generated: {share:g} of {batch} rows leaves no {kind} pose; set 0 for none")
    return rows


def real_rows(config: ConfigDict) -> int:
    """Rows of stream `poses`: what the generator leaves of a batch."""
    return config.data.batch_size - generated_rows(config)


def pool_columns(config: ConfigDict) -> int:
    """Updates of a pass over the pool, which holds as many poses for each generated row of a batch."""
    return math.ceil(config.model.gen.pool_size / generated_rows(config))


H36M_POSES = 1_559_752
"""Training pairs of Human3.6M: all frames of S1, S5, S6, S7, S8 from four cameras."""
SEED_SETS = {
    "0.001S1": (2**10, 250, True),
    "0.01S1": (2**12, 2_500, True),
    "0.05S1": (2**14, 12_500, True),
    "0.1S1": (2**15, 25_000, False),
    "0.5S1": (2**17, 125_000, False),
    "S1": (2**18, 250_000, False),
    "S15": (2**19, 620_000, False),
    "S156": (2**19, 940_000, False),
    "S1567": (2**19, 1_250_000, False),
    "S15678": (2**19, H36M_POSES, False),
    "seeds:100": (2**7, 400, True),
    "seeds:1000": (2**10, 4_000, True),
}
"""Seeds -> (room for them, about how many pairs four cameras make of them, whether they are fewer than 5,000)."""
POOL = 200_000
"""Least poses of a pool."""


def baseline(lifter: str, seeds: str = "S15678") -> ConfigDict:
    """The lifter on real pairs alone (PoseAug's recipe): Adam 1e-3, times 0.96 each 100,000 updates, 50 epochs of
    batches of 1,024; semgcn 2e-2, no dropout, 100 epochs. Few seeds are trained on for as many updates as 200,000 pairs
    would be."""
    c = _common(lifter, seeds)
    epochs, lr = (100, 2e-2) if lifter == "semgcn" else (50, 1e-3)
    configs.in_epochs(c, epochs)
    pairs = SEED_SETS[seeds][1]
    if pairs < POOL:
        c.train.update({"steps": epochs * (POOL // c.data.batch_size), "epochs": 0.0})
        c.train.update({"checkpoint_every": c.train.steps // 10, "checkpoint_epochs": 0.0})
    falling = ConfigDict({"decay_rate": 0.96, "staircase": True, "transition_steps": 100_000})
    c.optim.main = configs.optimizer(name="adam", lr=lr, schedule="optax.exponential_decay", schedule_args=falling)
    c.model.generated = 0.0
    return c


def generated(lifter: str, seeds: str = "S15678") -> ConfigDict:
    """PoseGU: half of a batch (7/8 with fewer than 5,000 seeds) is generated; 50 passes over pools of as many poses as
    there are pairs, 200,000 at least, each drawn anew; Adam 1e-4 (semgcn 1e-3), falling in equal steps each pass. It
    starts from the baseline of the same seeds, or from scratch where these are fewer than 5,000."""
    c = _common(lifter, seeds)
    _, pairs, few = SEED_SETS[seeds]
    c.model.generated = 7 / 8 if few else 1 / 2
    c.model.gen.pool_size = max(pairs, POOL)
    falling = ConfigDict({"epochs": 50})
    c.optim.main = configs.optimizer(
        name="adam",
        lr=1e-3 if lifter == "semgcn" else 1e-4,
        schedule="jaxvl.methods.posegu.schedule.falling_by_epoch",
        schedule_args=falling,
    )
    each = pool_columns(c)
    c.train.update({"steps": 50 * each, "checkpoint_every": 5 * each})
    c.init.required = not few
    return c


def _common(lifter: str, seeds: str) -> ConfigDict:
    c = base()
    c.train.log_every = 100
    c.model.lifter = lifter
    if lifter != "mlp":
        c.model.update({"stages": 4} if lifter == "vpose" else {"stages": 4, "width": 128, "dropout": 0.0})
    c.data.update({"seeds": seeds, "seed_capacity": SEED_SETS[seeds][0]})
    return c


ROWS: dict[str, dict[str, Any]] = {
    "posegu": {},
    "unweighted": {"crm.alpha": 0.0, "crm.lambda_var": 0.0},
    "no_penalty": {"crm.lambda_var": 0.0},
    "snips": {"crm.mode": "snips"},
    "clipped": {"crm.mode": "clipped"},
    "ips": {"crm.mode": "ips"},
    "no_body": {"gen.sigma_deg": (0.0, *SIGMA_DEG[1:])},
    "no_limits": {"gen.limits": "none"},
    "template": {"gen.bone_length_mode": "template"},
}
"""What a row changes in `config.model`: all weights 1 and no penalty, weights as published elsewhere, no rotation of
the whole body, no limits of joints, lengths of five subjects in place of ratios."""


def with_row(c: ConfigDict, row: str) -> ConfigDict:
    """The config with the fields of one of `ROWS` replaced."""
    for name, value in ROWS[row].items():
        group, field = name.split(".")
        c.model[group][field] = value
    return c


def mocap(row: str = "posegu", biased: bool = False) -> ConfigDict:
    """The experiment on real motion: eight frames of walking as seeds, tested on all other clips. 'seeds' trains on
    these alone, all else takes 224 of 256 poses from a fixed pool of 20,000. biased: 95 % of the pool stays near its
    seed, the pool has 60,000 poses and the network a quarter of the width. Weights start as PyTorch's: with the larger
    ones of the published lifter so short a training ends at one and a half times the error."""
    c = base()
    c.train.update({"steps": 1500, "log_every": 100, "checkpoint_every": 500})
    c.train.clip_norm = 0.0
    c.optim.main = configs.optimizer(name="adam", lr=1e-3, schedule="cosine")
    c.model.update({"width": 64 if biased else 256, "dropout": 0.1, "start": "pytorch"})
    c.model.update({"generated": 0.0 if row == "seeds" else 7 / 8})
    c.model.gen.update({"pool_size": 60_000 if biased else 20_000, "redraw": False, "cameras": "random"})
    if biased:
        c.model.gen.mix = ((0.95, 0.3), (0.05, 1.0))
    c.data.update({"reader": "mocap", "seeds": "walk", "seed_every": 5, "seed_capacity": 8, "test": ("mocap",)})
    c.data.update({"batch_size": 256, "eval_batch_size": 512})
    return c if row == "seeds" else with_row(c, row)
