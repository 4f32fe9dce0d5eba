"""The small CIFAR-10 runs of the published code: ResNet-20 of four times the width, widths 1 and 1/2.

    jaxvl train --config configs/slimclr/cifar10.py:NAME --workdir runs/cifar_NAME --config.data.root=DIR

NAME is a key of EXPERIMENTS; without one it is slim. DIR holds cifar-10-batches-py/ or cifar-10-batches-bin/. The
numbers are kNN top-1 in the comments of the published logs (supervised: accuracy). There the widths take optimizer
steps one after the other in each iteration; here they share one.
"""

from jaxvl.core import config as configs
from jaxvl.methods.slimclr import recipe
from jaxvl.methods.slimclr.recipe import Published

EXPERIMENTS = {
    "slim": None,
    "naive": Published((75.74, 74.24)),
    "alone_100": Published((76.75,)),
    "alone_050": None,
    "supervised": Published((93.58, 93.03)),
}


def get_config(name="slim"):
    name = configs.one_of(name, EXPERIMENTS)
    c = recipe.base()
    c.seed = 0
    configs.in_epochs(c, 100, evaluated=10, saved=10)
    c.train.update({"log_every": 50, "eval_split": "test"})
    c.eval.update({"split": "test", "features": "head"})
    c.optim.main = configs.optimizer(name="sgd", lr=0.06, momentum=0.9, weight_decay=5e-4, no_decay="$^")
    c.model.update({"trunk": "cifar", "depth": 20, "width": 64, "widths": (1.0, 0.5), "hidden": 256, "bn_groups": 1})
    c.model.update({"queue": 4096, "momentum": 0.99, "temperature": 0.1})
    c.model.update({"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)})
    c.data.update({"reader": "cifar10", "classes": 10, "image_size": 32, "eval_resize": 32, "bank": 0})
    c.data.update({"augment": "small", "batch_size": 512})
    if name == "naive":
        recipe.naive(c)
    elif name.startswith("alone_"):
        c.model.alone = int(name.removeprefix("alone_")) / 100
    elif name == "supervised":
        c.model.update({"framework": "supervised", "head": "supervised", "dim": 10, "slow_start": 0.0, "queue": 512})
    c.model.queue = c.model.queue // 512 * 512
    return c
