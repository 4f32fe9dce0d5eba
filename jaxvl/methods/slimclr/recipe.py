"""SlimCLR's config fields, the published recipes, and the small networks of the quickstart.

The files under `configs/slimclr/` start from here.
"""

from __future__ import annotations

from typing import NamedTuple

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.fields import choice, flag, folder, interval, many, only, only_if_given, real, whole

FOUR = (1.0, 0.75, 0.5, 0.25)


class Published(NamedTuple):
    """A row of a published table: top-1, and top-5 where given, in percent, by width in descending order."""

    top1: tuple[float, ...]
    top5: tuple[float, ...] = ()


def base() -> ConfigDict:
    """Every field of the method with its default: SlimCLR-MoCo v2 on ImageNet."""
    c = configs.base()
    c.method = "slimclr"
    c.eval.update({"split": "val", "use_ema": False})
    with c.unlocked():
        c.eval.monitors = ("knn", "linear")  # of frozen features: knn, linear (a classifier a width), shared, pixels
        c.eval.features = "trunk"  # or 'head': what the monitors see
        c.eval.knn_k = 200
        c.eval.knn_temperature = 0.1
        c.eval.probe_l2 = 1e-3
    c.model = {
        "framework": "mocov2",  # mocov3, simclr, supervised, probe
        "trunk": "resnet",  # cifar (depth 6k + 2), conv
        "depth": 50,
        "width": 64,  # channels of the stem
        "conv_channels": (16, 32, 64, 64),  # of the trunk 'conv'
        "strides": (1, 2, 2, 1),
        "widths": FOUR,  # descending from 1.0
        "alone": 0.0,  # one of the widths: train the ordinary network of that size, which shares nothing
        "overlap": True,  # False: narrower widths use disjoint channels (ablation)
        "zero_init": True,
        "head": "mocov2_slim",  # mocov2_switch, mocov3_slim, simclr_slim, supervised, supervised_switch
        "hidden": 2048,
        "dim": 128,  # of the outputs; the number of classes of supervised heads
        "init_sd": 0.01,  # of dense layers; 0: PyTorch's uniform by fan-in
        "bn_groups": 4,  # runs of rows with statistics of their own (replicas); 1: the global batch
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "slow_start": 0.5,  # share of all steps in which the full width trains alone; 0: off
        "distill": "ce",  # none, mse, mse_features, kd_features, dkd, atkd
        "distill_weight": 0.5,  # alpha
        "distill_temperature": 5.0,
        "teacher_temperature": 0.0,  # of 'ce' and 'kd_features'; 0: distill_temperature
        "distill_logits": "cosine",  # as released; 'scaled': divided by the temperature
        "full_distill": False,  # every width learns from all larger ones
        "reweight": 5,  # mode of the loss weights; 0: all ones
        "temperature": 0.2,
        "queue": 65536,
        "momentum": 0.999,  # of the key encoder
        "momentum_schedule": "constant",  # or 'cosine', up to 1
        "inplace": "none",  # of classifiers: distill, mixed
        "analyse_every": 0,  # steps between measurements of the gradients of all widths; 0: never
    }
    c.data = {
        "reader": "imagenet",  # folder, tfds, records, mnist, fashion_mnist, cifar10, cifar100, mnist5k, optdigits
        "root": "",  # the data set's folder
        "world": {},  # fields of jaxvl.data.synthetic.patterns.PatternWorld: render this world into root first
        "classes": 1000,
        "holdout": 0,  # training pictures kept out as split 'val', where the data set has no such split
        "bank": 50000,  # training pictures whose features label the others; 0: all
        "image_size": 224,
        "eval_resize": 256,  # short side before the central crop
        "augment": "mocov2",  # a name of jaxvl.methods.slimclr.augment.VIEWS
        "view": {},  # fields of both views, replaced
        "batch_size": 1024,
        "eval_batch_size": 256,
        "records": {"short_side": 256, "quality": 95, "shards": 16},  # of `jaxvl prepare`
    }
    return c


HERE = "jaxvl.methods.slimclr"
FIELDS = {
    "eval.monitors": many(choice(of=f"{HERE}.evaluators:MONITORS"), 1),
    "eval.features": choice("trunk", "head"),
    "eval.knn_k": whole(1),
    "eval.knn_temperature": real(above=0),
    "eval.probe_l2": real(0),
    "precision.remat": choice("none", "full"),  # of the trunk resnet
    "precision.scan_layers": only(False, "no blocks in it become a loop"),
    "model.framework": choice(of=f"{HERE}.frameworks:FRAMEWORKS"),
    "model.trunk": choice(of=f"{HERE}.model:TRUNKS"),
    "model.depth": whole(8, 1024),
    "model.width": whole(1, 2**20),
    "model.conv_channels": many(whole(1, 2**20), 1),
    "model.strides": many(whole(1, 64), 1),
    "model.widths": many(real(above=0), 1),
    "model.alone": real(0, 1),
    "model.overlap": flag(),
    "model.zero_init": flag(),
    "model.head": choice(of=f"{HERE}.model:HEADS"),
    "model.hidden": whole(1, 2**20),
    "model.dim": whole(1, 2**20),
    "model.init_sd": real(0),
    "model.bn_groups": whole(1),
    "model.mean": many(real(0, 1), 3, 3),
    "model.std": many(real(above=0), 3, 3),
    "model.slow_start": real(0, 1),
    "model.distill": choice(of=f"{HERE}.losses:DISTILLATIONS"),
    "model.distill_weight": real(0),
    "model.distill_temperature": real(above=0),
    "model.teacher_temperature": real(0),
    "model.distill_logits": choice("cosine", "scaled"),
    "model.full_distill": flag(),
    "model.reweight": whole(0, 7),
    "model.temperature": real(above=0),
    "model.queue": whole(1),
    "model.momentum": real(0, 1),
    "model.momentum_schedule": choice("constant", "cosine"),
    "model.inplace": choice(of=f"{HERE}.method:INPLACE"),
    "model.analyse_every": whole(0),
    "data.reader": choice(of=f"{HERE}.data:READERS"),
    "data.root": folder(),
    "data.classes": whole(1, 2**20),
    "data.holdout": whole(0),
    "data.bank": whole(0),
    "data.image_size": whole(1, 2**14),
    "data.eval_resize": whole(1, 2**14),
    "data.augment": choice(of=f"{HERE}.augment:VIEWS"),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
    "data.records.short_side": whole(1, 2**16),
    "data.records.quality": whole(1, 100),
    "data.records.shards": whole(1, 2**20),
    **only_if_given(
        {
            **{f"data.world.{name}": whole(1) for name in ("classes", "num_train", "num_test")},
            "data.world.size": whole(1, 4096),
            "data.world.angle": real(0),
            "data.world.shift": real(0),
            "data.world.noise": real(0),
            "data.world.seed": whole(0),
            "data.view.scale": interval(1e-6, 1e6),
            "data.view.ratio": interval(1e-6, 1e6),
            "data.view.gain": real(0, 1),
            "data.view.jitter": many(real(0), 4, 4),
            **{f"data.view.{name}_p": real(0, 1) for name in ("jitter", "gray", "blur", "solarize", "flip")},
            "data.view.blur_sigma": interval(0, 1000),
            "data.view.lighting": real(0),
        }
    ),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""


AS_RELEASED = "$^"
"""Matches nothing: in every released run the biases decay too, as the scheduler sets the decay of both groups of
parameters anew at each step (section 5.1). `bias$` is the rule that was meant; published numbers are of this one."""


def mocov2(epochs: int = 200) -> ConfigDict:
    """Section 5.1: SGD 0.2, decay 1e-4 on everything, 10 epochs of warm-up, cosine, batch 1024 in 4 replicas."""
    c = base()
    _length(c, epochs)
    c.optim.main = configs.optimizer(
        name="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, no_decay=AS_RELEASED, warmup=10 / epochs, floor=1e-8
    )
    return c


def mocov3(epochs: int = 300) -> ConfigDict:
    """Section 5.1: LARS, rate 1.2 and from the end of the slow start 3.2, synchronised norms, T 1, momentum to 1."""
    c = base()
    _length(c, epochs)
    c.optim.main = configs.optimizer(
        name="lars", lr=1.2, late_lr=3.2, late_from=0.5, momentum=0.9, weight_decay=1e-6, no_decay=AS_RELEASED,
        warmup=10 / epochs, floor=1e-8,
    )  # fmt: skip
    c.model.update({"framework": "mocov3", "head": "mocov3_slim", "hidden": 4096, "dim": 256, "bn_groups": 1})
    c.model.update({"temperature": 1.0, "momentum": 0.99, "momentum_schedule": "cosine"})
    c.model.update({"distill_temperature": 1.0, "distill_logits": "scaled"})
    c.data.augment = "mocov3"
    return c


def simclr(epochs: int = 100) -> ConfigDict:
    """Section 5.1: LARS 0.075 sqrt(batch), a tenth of warm-up, T 0.1."""
    c = base()
    _length(c, epochs)
    c.optim.main = configs.optimizer(
        name="lars", lr=2.4, momentum=0.9, weight_decay=1e-6, no_decay=AS_RELEASED, warmup=0.1, floor=1e-8
    )
    c.model.update({"framework": "simclr", "head": "simclr_slim", "bn_groups": 1, "temperature": 0.1})
    c.data.augment = "simclr"
    return c


def supervised(epochs: int = 100) -> ConfigDict:
    """Section 5.1: slimmable training with labels, batch 512 in 4 replicas."""
    c = base()
    c.data.batch_size = 512
    _length(c, epochs)
    c.optim.main = configs.optimizer(
        name="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, no_decay=AS_RELEASED, warmup=0.05, floor=1e-8
    )
    c.model.update({"framework": "supervised", "head": "supervised", "dim": 1000, "slow_start": 0.0, "reweight": 0})
    c.checkpoint.best_metric = "top1/w100"
    c.data.augment = "slim"
    return c


def probe(kind: str) -> ConfigDict:
    """Section 5.2: classifiers of all widths on a frozen trunk; `kind` 'mocov2' (rate 60, steps) or 'mocov3'."""
    c = base()
    _length(c, 100 if kind == "mocov2" else 90)
    c.train.update({"eval_every": -1, "eval_epochs": 2.0})
    if kind == "mocov2":
        schedule = {"lr": 60.0, "schedule": "step", "boundaries": (0.6, 0.8), "decay_factor": 0.1}
    else:
        schedule = {"lr": 0.4, "schedule": "cosine"}
    c.optim.main = configs.optimizer(name="sgd", momentum=0.9, floor=1e-8, **schedule)
    c.model.update({"framework": "probe", "head": "supervised_switch", "dim": 1000, "inplace": "mixed"})
    c.model.update({"bn_groups": 1, "slow_start": 0.0, "distill": "none"})
    c.checkpoint.best_metric = "top1/w100"
    c.precision.compute = "float32"
    c.init.required = True
    c.data.augment = "normal"
    return c


def _length(c: ConfigDict, epochs: int) -> None:
    c.seed = 3407
    configs.in_epochs(c, epochs)
    c.train.update({"log_every": 50, "eval_split": "val"})
    c.precision.compute = "bfloat16"


def naive(c: ConfigDict) -> ConfigDict:
    """Without the three techniques: all widths from the first step, equal weights, no distillation."""
    c.model.update({"slow_start": 0.0, "reweight": 0, "distill": "none"})
    return c


def small(c: ConfigDict, steps: int, size: int = 32) -> ConfigDict:
    """The four-convolution net on small pictures, seconds to minutes on two cores (section 9b)."""
    c.train.update({"steps": steps, "log_every": 20, "checkpoint_every": steps})
    c.model.update({"trunk": "conv", "widths": (1.0, 0.5, 0.25), "hidden": 64, "dim": 64, "init_sd": 0.0})
    c.model.update({"queue": 2048, "momentum": 0.99, "bn_groups": 1, "zero_init": False})
    c.model.update({"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
    c.optim.main = configs.optimizer(
        name="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, no_decay="bias$", warmup=0.05, floor=1e-8
    )
    c.eval.monitors = ("knn", "linear", "pixels")
    c.data.update({"image_size": size, "eval_resize": size, "batch_size": 256, "eval_batch_size": 256, "bank": 0})
    c.precision.compute = "float32"
    return c
