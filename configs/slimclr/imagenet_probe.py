"""The linear probe of all widths on a frozen trunk, ImageNet.

    jaxvl train --config configs/slimclr/imagenet_probe.py:NAME --workdir runs/probe \\
        --config.data.root=DIR --config.init.weights=WEIGHTS

WEIGHTS is the workdir of a pre-training run, or a folder that `jaxvl convert --from slimclr` wrote of a published
checkpoint. NAME: mocov2 (rate 60, 100 epochs; the default), mocov3 (rate 0.4, 90 epochs; SimCLR's too), shared (one
slimmable classifier for all widths, which the paper shows to be worse), or alone_100 ... alone_025 (of one separate
network).
"""

from jaxvl.core import config as configs
from jaxvl.methods.slimclr import recipe

EXPERIMENTS = {
    "mocov2": "a classifier of its own for each width",
    "mocov3": "the same with MoCo v3's recipe",
    "shared": "one slimmable classifier",
    "alone_100": "of a separate network",
    "alone_075": "of a separate network",
    "alone_050": "of a separate network",
    "alone_025": "of a separate network",
}


def get_config(name="mocov2"):
    name = configs.one_of(name, EXPERIMENTS)
    c = recipe.probe("mocov3" if name == "mocov3" else "mocov2")
    if name == "shared":
        c.model.head = "supervised"
    if name.startswith("alone_"):
        c.model.alone = int(name.removeprefix("alone_")) / 100
    return c
