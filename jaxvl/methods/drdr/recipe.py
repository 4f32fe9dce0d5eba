"""DRDR's config fields, the recipe of the paper and its settings by name.

The files under `configs/drdr/` start from here.
"""

from __future__ import annotations

import itertools

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.core.fields import choice, flag, folder, interval, like, many, only, real, text, whole

STEPS = 20_000
RULES = {  # translation, distance, angular, transport, burn-in, weight decay (section 4.7)
    "office31": (50.0, 0.8, 2.5, True, 0.001, 0.0),
    "office31_msda": (50.0, 0.8, 2.5, False, 0.001, 0.0),
    "office_caltech10": (50.0, 0.8, 2.5, True, 0.001, 0.0),
    "office_home": (200.0, 6.6, 3.6, False, 0.02, 5e-4),
    "office_home_msda": (200.0, 6.6, 3.6, False, 0.038, 5e-4),
    "domainnet": (200.0, 6.6, 3.6, True, 0.02, 5e-4),
}
"""The published weights of each data set and setting."""
PUBLISHED_CONSENSUS = {"office31": 1.0, "office_caltech10": 1.0, "office_home": 5.0, "domainnet": 5.0}
PUBLISHED_TRANSPORT = 1e-4
CONSENSUS, TRANSPORT = 0.1, 0.01
"""With a Kullback-Leibler term that has an effect, and with a converged divergence, these weights take the place of the
published 1 or 5 and 1e-4 (section 4.7)."""


def base() -> ConfigDict:
    """Every field of the method with its default: ResNet-50, Office-31's weights."""
    c = configs.base()
    c.method = "drdr"
    c.model = {
        "classes": 31,
        "trunk": "resnet",  # or conv (small pictures), none (feature vectors)
        "depth": 50,
        "width": 64,  # channels of the ResNet's stem
        "channels": (16, 32),  # of the conv trunk
        "pool": "flatten",  # of the conv trunk's last map; or mean
        "bottleneck_dim": 256,
        "stiefel": True,  # the orthogonal layer on the target's path
        "freeze_classifier": False,  # as in the published code, which never updates it
        "mean": (0.485, 0.456, 0.406),  # of RGB in [0, 1]; as many numbers as channels
        "std": (0.229, 0.224, 0.225),
        "theta": 0.3,  # share of the batch in the anchors
        "absent_class": "zero",  # or keep: what a class that is not in the batch does to its anchor
        "gamma": 1.0,  # factor on the source's logits in the cross-entropy
        "burn_in": 0.001,  # share of all steps before local refinement, transport and consensus
        "consensus": "paper",  # or code
        "spoke_mask": 1e-3,  # spokes shorter than this share of the mean one have no direction
        "weights": {
            "classification": 1.0,
            "translation": 50.0,
            "distance": 0.8,
            "angular": 2.5,
            "transport": TRANSPORT,  # 0 leaves a term out of the compiled step
            "consensus": CONSENSUS,
        },
        "ot": {
            "mode": "ott",  # converged; or annealed, the published solver
            "epsilon_share": 0.05,  # of the mean cost
            "threshold": 1e-3,
            "max_iterations": 500,
            "anchor_weights": "uniform",  # or pseudo: class shares of the batch
            "blur": 0.05,  # of annealed
            "scaling": 0.9,
        },
    }
    c.data = {
        "reader": "office31",  # or another of jaxvl/methods/drdr/data.py: READERS
        "root": "",  # the folder of the data set
        "task": "amazon->webcam",  # SOURCE/SOURCE->TARGET/TARGET
        "external": "",  # domains that are only tested, joined by /
        "classes": (),  # class folders to use, in order of their labels; (): all, sorted
        "unlabelled": (),  # targets of 'folders' that are one folder of pictures without classes; never tested
        "shared_names": False,  # of emoji: source and target may show the same things
        "train_split": "train",  # of TFDS data sets
        "test_split": "test",
        "image_size": 224,
        "feature_dim": 0,  # of trunk 'none'
        "augment": True,  # random crops and flips in training
        "crop_scale": (0.8, 1.25),
        "hflip": True,
        "vflip": False,  # the published code has it
        "affine_jitter": 0.0,
        "test_resize": 256,  # before the centre crop; 0: straight to image_size
        "batch_size": 64,  # source images, and as many target images
        "eval_batch_size": 64,
    }
    return c


WEIGHTS = ("classification", "translation", "distance", "angular", "transport", "consensus")
FIELDS = {
    "precision.remat": choice("none", "full"),  # of the trunk resnet
    "precision.scan_layers": only(False, "no blocks in it become a loop"),
    "model.classes": whole(1, 2**20),
    "model.trunk": choice("resnet", "conv", "none"),
    "model.depth": whole(1, 1024),
    "model.width": whole(1, 2**20),
    "model.channels": many(whole(1, 2**20), 1),
    "model.pool": choice(of="jaxvl.methods.drdr.model:POOLS"),
    "model.bottleneck_dim": whole(1, 2**20),
    "model.stiefel": flag(),
    "model.freeze_classifier": flag(),
    "model.mean": many(real(0, 1), 1),
    "model.std": many(real(above=0), 1),
    "model.theta": real(0, 1),
    "model.absent_class": choice("zero", "keep"),
    "model.gamma": real(above=0),
    "model.burn_in": real(0, 1),
    "model.consensus": choice("paper", "code"),
    "model.spoke_mask": real(0, 1),
    **{f"model.weights.{name}": real(0) for name in WEIGHTS},
    "model.ot.mode": choice("ott", "annealed"),
    "model.ot.epsilon_share": real(above=0),
    "model.ot.threshold": real(above=0),
    "model.ot.max_iterations": whole(1),
    "model.ot.anchor_weights": choice("uniform", "pseudo"),
    "model.ot.blur": real(above=0),
    "model.ot.scaling": real(above=0, below=1),
    "data.reader": choice(of="jaxvl.methods.drdr.data:READERS"),
    "data.root": folder(),
    "data.task": like(r"[^>]+->.*", "SOURCE/SOURCE->TARGET/TARGET"),
    "data.external": text(),
    "data.classes": many(text(empty=False)),
    "data.unlabelled": many(text(empty=False)),
    "data.shared_names": flag(),
    "data.train_split": text(empty=False),
    "data.test_split": text(empty=False),
    "data.image_size": whole(1, 2**14),
    "data.feature_dim": whole(0, 2**24),
    "data.augment": flag(),
    "data.crop_scale": interval(1e-6, 1e6),
    "data.hflip": flag(),
    "data.vflip": flag(),
    "data.affine_jitter": real(0),
    "data.test_resize": whole(0, 2**14),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""


def paper(reader: str, classes: int, task: str, rule: str = "", external: str = "") -> ConfigDict:
    """The recipe of section 5 for a data set: SGD with Nesterov momentum, rate 3e-4 (1 + 10 p)^-0.75, ten times that
    behind the trunk, 20,000 updates of 64 + 64 images, seed 2020; the trunk's convolutions in bfloat16."""
    c = base()
    translation, distance, angular, transport, burn_in, decay = RULES[rule or reader]
    c.seed = 2020
    c.train.update({"steps": STEPS, "log_every": 100, "eval_every": 200, "eval_split": "test"})
    c.train.checkpoint_every = 1000
    c.checkpoint.best_metric = "accuracy"
    c.optim.main = optimizer(3e-4, decay)
    c.precision.compute = "bfloat16"  # of the trunk; its norms and all that stands behind it stay float32
    c.init.required = True
    c.model.classes = classes
    c.model.burn_in = burn_in
    c.model.weights.update({"translation": translation, "distance": distance, "angular": angular})
    c.model.weights.update({"transport": TRANSPORT if transport else 0.0, "consensus": CONSENSUS})
    c.data.update({"reader": reader, "task": task, "external": external})
    c.data.test_resize = 0 if reader in ("office_home", "domainnet") else 256
    return c


def optimizer(lr: float, decay: float) -> ConfigDict:
    """Section 5.1 and 5.2; the published code doubles every decay."""
    return configs.optimizer(
        name="sgd", lr=lr, schedule="inverse_decay", momentum=0.9, nesterov=True, weight_decay=2 * decay,
        no_decay="$^", groups=(("^trunk/", 1.0), ("", 10.0)), stiefel="^stiefel/kernel$",
    )  # fmt: skip


def as_published(c: ConfigDict) -> ConfigDict:
    """What the released code computes: its consensus, its unconverged transport, a classifier that is never trained,
    vertical flips, and the weights that go with them."""
    c.model.update({"consensus": "code", "freeze_classifier": True})
    c.model.ot.mode = "annealed"
    w = c.model.weights
    w.transport = PUBLISHED_TRANSPORT if w.transport else 0.0
    w.consensus = PUBLISHED_CONSENSUS.get(c.data.reader, 1.0)
    c.data.vflip = True
    c.precision.compute = "float32"
    return c


def source_only(c: ConfigDict) -> ConfigDict:
    """The baseline: the same network trained on the source alone; the target is not read."""
    for name in c.model.weights:
        c.model.weights[name] = 1.0 if name == "classification" else 0.0
    return c


def initials(domains: tuple[str, ...]) -> dict[str, str]:
    """Short names of domains for rows of a table, `amazon -> a`."""
    short = {d: "".join(part[0] for part in d.lower().split("_")) for d in domains}
    if len(set(short.values())) < len(domains):
        raise InputError(f"domains {', '.join(domains)}: their initials are not distinct")
    return short


def pairs(domains: tuple[str, ...]) -> dict[str, str]:
    """Row -> task, of every ordered pair: `uda_a_w -> amazon->webcam`."""
    short = initials(domains)
    return {f"uda_{short[a]}_{short[b]}": f"{a}->{b}" for a in domains for b in domains if a != b}


def many_to_one(domains: tuple[str, ...], count: int) -> dict[str, str]:
    """Row -> task of every choice of `count` pooled sources for every target: `msda_ad_w -> amazon/dslr->webcam`."""
    short, out = initials(domains), {}
    for target in domains:
        for sources in itertools.combinations([d for d in domains if d != target], count):
            out[f"msda_{''.join(short[d] for d in sources)}_{short[target]}"] = f"{'/'.join(sources)}->{target}"
    return out


def one_to_many(domains: tuple[str, ...]) -> dict[str, str]:
    """Row -> task with one source and all others pooled as unlabelled targets: `dal_a_cdw`."""
    short, out = initials(domains), {}
    for source in domains:
        targets = tuple(d for d in domains if d != source)
        out[f"dal_{short[source]}_{''.join(short[d] for d in targets)}"] = f"{source}->{'/'.join(targets)}"
    return out
