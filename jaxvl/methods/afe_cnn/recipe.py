"""Config fields of AFE-CNN (reconstruction), its recipes and ablations, and the batch that data and model share.

One stream, `clips`, the same in training and in every split. Arrays without their batch axis:

- `x` float32 `[M, T, J, 3]`: joints of up to M = `data.bodies` bodies, normalised, resampled to T = `data.frames`,
  augmented; an absent body or frame is zeros
- `present` bool `[M]`: the body has a value that is not 0; at least one has
- `label` int32 `[]`

On the host, for evaluators: `_id` (the clip's name; the same for all test crops of a clip) and `_label`.

`Method.predict` gives `logits [B, K]`, `joint_gates [B, M, J]` and `frame_gates [B, M, T]`, float32; gates are 1 where
their module is switched off.

Nobody could read the method section of the paper for this: only its abstract. What the abstract says is kept, all
numbers are choices of the reconstruction, and each is a field here.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.fields import below, choice, flag, folder, interval, many, only, only_if_given, real, whole


def base() -> ConfigDict:
    """Every field of the method with its default: NTU RGB+D's 60 classes by subject."""
    c = configs.base()
    c.method = "afe_cnn"
    c.model = {
        "skeleton": "ntu25",  # or utkinect20, humanoid16
        "classes": 60,
        "width": 64,  # channels of the stem; the last block has eight times as many
        "kje": True,  # key joints: a gate a joint
        "bve": True,  # bone vectors: their directions as channels
        "kfe": True,  # key frames: a gate a frame
        "te": True,  # temporal: differences over 1 and `te_span` frames as channels
        "te_span": 4,
        "gates": "relative",  # what the gates read: ratios to the clip's mean; or 'absolute', log speeds (rejected)
        "gate_range": 0.5,  # a gate is 1 + gate_range * tanh(.)
        "kje_hidden": 32,
        "kfe_hidden": 16,
        "kfe_size": 5,  # frames of its kernels; odd
        "dropout": 0.5,
        "label_smoothing": 0.1,
        "bn_momentum": 0.9,
        "bn_epsilon": 1e-5,
    }
    c.data = {
        "reader": "ntu",  # npz, pkl, utkinect, files, records
        "root": "",  # folder of the data set, or its file; '': WORKDIR/data, for a world
        "protocol": "xsub",  # xview, xset; of UTKinect loso or xsub_odd; '' where the data has one split
        "fold": 0,  # of protocol 'loso': which recording is tested
        "world": {},  # fields of jaxvl.data.synthetic.actions.ActionWorld: write this world into root first
        "cache": "",  # folder of parsed files; '': WORKDIR/cache/skeletons
        "missing": (),  # lists of samples to leave out, below root or absolute; (): those found under root
        "track_gaps": "official",  # a body that vanishes and returns is glued together; or 'true_index'
        "processes": 0,  # that parse files; 0: one a core
        "frames": 64,  # T
        "bodies": 2,  # M; 1 where nobody is ever joined by a second person: half the work, the same result
        "view": True,  # turn each clip into the body's own axes
        "size": True,  # divide by the length of the torso
        "train_crop": (0.5, 1.0),  # share of the frames of a training window
        "least_frames": 64,  # of a training window, where the clip has as many
        "test_crop": 0.95,
        "test_crops": 1,  # 1: the centre; else so many random windows, their probabilities averaged
        "rotation": 0.3,  # largest angle about each axis in training, radians
        "repeats": 1,  # how often a pass over the training data reads each clip
        "pairs": (),  # pairs of classes, numbered from 1, that the report looks at
        "batch_size": 64,
        "eval_batch_size": 64,
    }
    return c


FIELDS = {
    "precision.remat": only("none", "nothing in it is computed again"),
    "precision.scan_layers": only(False, "no blocks in it become a loop"),
    "model.skeleton": choice(of="jaxvl.data.skeletons:SKELETONS"),
    "model.classes": whole(1, 2**20),
    "model.width": whole(1, 2**14),
    **{f"model.{name}": flag() for name in ("kje", "bve", "kfe", "te")},
    "model.te_span": whole(1, 2**16),
    "model.gates": choice("relative", "absolute"),
    "model.gate_range": real(0, 1),
    "model.kje_hidden": whole(1, 2**16),
    "model.kfe_hidden": whole(1, 2**16),
    "model.kfe_size": whole(1, 2**12),
    "model.dropout": real(0, below=1),
    "model.label_smoothing": real(0, below=1),
    "model.bn_momentum": real(0, below=1),
    "model.bn_epsilon": real(above=0),
    "data.reader": choice(of="jaxvl.methods.afe_cnn.data:READERS"),
    "data.root": folder(),
    "data.protocol": choice(of="jaxvl.methods.afe_cnn.data:PROTOCOLS"),
    "data.fold": whole(0, 2**20),
    "data.cache": folder(),
    "data.missing": many(below()),
    "data.track_gaps": choice(of="jaxvl.data.readers.skeletons.ntu_bodies:TRACKING"),
    "data.processes": whole(0, 1024),
    "data.frames": whole(1, 2**16),
    "data.bodies": whole(1, 2),
    "data.view": flag(),
    "data.size": flag(),
    "data.train_crop": interval(1e-6, 1.0),
    "data.least_frames": whole(1, 2**20),
    "data.test_crop": real(above=0, high=1),
    "data.test_crops": whole(1, 1024),
    "data.rotation": real(0),
    "data.repeats": whole(1, 2**16),
    "data.pairs": many(many(whole(1, 2**20), 2, 2)),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
    **only_if_given(
        {
            "data.world.kind": choice(of="jaxvl.data.synthetic.actions:KINDS"),
            "data.world.num_train": whole(1),
            "data.world.num_test": whole(1),
            "data.world.seen": choice(of="jaxvl.data.synthetic.actions:CONDITIONS"),
            "data.world.seed": whole(0, 2**30),
        }
    ),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""

NTU_PAIRS = (
    *((11, 12), (29, 30), (16, 17), (18, 19), (20, 21), (14, 15), (10, 39), (37, 44)),
    *((61, 62), (69, 70), (71, 72), (73, 76), (85, 86)),
)
"""Actions of NTU RGB+D that are hard to tell apart: reading and writing, phone and keyboard, shoe on and off, glasses
on and off, hat on and off, jacket on and off, clapping and palms together, wiping the face and touching the head; of
NTU RGB+D 120 headphone on and off, thumb up and down, ok and victory sign, stapling and cutting paper, cream on face
and on hand."""


def ntu(protocol: str, classes: int) -> ConfigDict:
    """Section 5 for NTU RGB+D: Adam with coupled decay on all parameters, rate 1e-3, a tenth of it after epochs 60, 90
    and 110 of 120, batches of 64; the last epoch counts."""
    c = base()
    configs.in_epochs(c, 120)
    c.train.log_every = 100
    c.optim.main = adam(1e-3, schedule="step", boundaries=(60 / 120, 90 / 120, 110 / 120), decay_factor=0.1)
    c.model.classes = classes
    c.data.update({"protocol": protocol, "rotation": 0.5 if (protocol, classes) == ("xview", 60) else 0.3})
    c.data.pairs = tuple(pair for pair in NTU_PAIRS if max(pair) <= classes)
    return c


def utkinect(protocol: str) -> ConfigDict:
    """Section 5 for UTKinect-Action3D: 60 passes over 20 repeats of the small set, width 32, 32 frames, cosine from
    2e-3."""
    c = small(base(), "utkinect20", 10)
    configs.in_epochs(c, 60)
    c.train.log_every = 50
    c.optim.main = adam(2e-3, schedule="cosine")
    c.data.update({"reader": "utkinect", "protocol": protocol, "repeats": 20})
    return c


def small(c: ConfigDict, skeleton: str, classes: int, width: int = 32) -> ConfigDict:
    """The network of small data: 32 frames, one body."""
    c.model.update({"skeleton": skeleton, "classes": classes, "width": width})
    c.data.update({"frames": 32, "bodies": 1})
    return c


def adam(lr: float, **fields: Any) -> ConfigDict:
    """Adam whose decay of 1e-4 stands in front of the moments and reaches every parameter."""
    return configs.optimizer(name="adam", lr=lr, weight_decay=1e-4, no_decay="$^", **fields)


def one_cycle(lr: float, rise: float = 0.3) -> ConfigDict:
    """`adam` on one cycle: up to `lr` over the share `rise` of the updates, then down, both along cosines."""
    args = ConfigDict({"pct_start": rise})
    return adam(lr, schedule="optax.cosine_onecycle_schedule", schedule_args=args)


def mocap(kind: str, steps: int) -> ConfigDict:
    """Worlds of real motion: sequences as they are, no augmentation, one cycle. kind: 'clips' or 'gestures'."""
    gestures = kind == "gestures"
    c = small(base(), "humanoid16", 8 if gestures else 20, 16 if gestures else 32)
    c.train.update({"steps": steps, "log_every": 50, "checkpoint_every": 200})
    c.optim.main = one_cycle(6e-3, 0.2) if gestures else one_cycle(4e-3)
    c.model.dropout = 0.3 if gestures else 0.5
    c.data.update({"reader": "files", "protocol": "", "train_crop": (1.0, 1.0), "test_crop": 1.0, "rotation": 0.0})
    c.data.update({"batch_size": 32, "eval_batch_size": 100})
    return c


MODULES: dict[str, dict[str, Any]] = {
    "full": {},
    "no_kje": {"kje": False},
    "no_bve": {"bve": False},
    "no_kfe": {"kfe": False},
    "no_te": {"te": False},
    "no_gates": {"kje": False, "kfe": False},
    "no_modules": {"kje": False, "bve": False, "kfe": False, "te": False},
    "absolute_gates": {"gates": "absolute"},
}
"""What a row changes in `config.model`."""
INPUTS: dict[str, dict[str, Any]] = {
    "no_view": {"view": False},
    "no_size": {"size": False},
    "no_normalisation": {"view": False, "size": False},
}
"""What a row changes in `config.data`."""
BOTH = {
    "coordinates": ("no_modules", "no_normalisation"),
    "no_modules_no_size": ("no_modules", "no_size"),
}
"""Rows that are two of the others at once."""
ROWS = (*MODULES, *INPUTS, *BOTH)
"""The design, each enhancer left out, gates or all enhancers left out, the rejected gates, each normalisation left out,
neither enhancers nor normalisation ('coordinates'), and no enhancers but the view."""


def with_row(c: ConfigDict, row: str) -> ConfigDict:
    """The config with the fields of one of `ROWS` replaced."""
    for part in BOTH.get(row, (row,)):
        c.model.update(MODULES.get(part, {}))
        c.data.update(INPUTS.get(part, {}))
    return c


def names(first: str, *others: str) -> tuple[str, ...]:
    """The experiments of a config file: the first protocol in the full design and in every other of `ROWS`, further
    protocols in the full design."""
    return (first, *(f"{first}_{row}" for row in ROWS if row != "full"), *others)


def split_name(name: str) -> tuple[str, str]:
    """`PROTOCOL_ROW -> (PROTOCOL, ROW)`; without a row the full design."""
    for row in sorted(ROWS, key=len, reverse=True):
        if name.endswith(f"_{row}"):
            return name.removesuffix(f"_{row}"), row
    return name, "full"
