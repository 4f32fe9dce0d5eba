"""SlimCLR on ImageNet: every pre-training of the tables, the separate networks, and one config a technique.

    jaxvl train --config configs/slimclr/imagenet.py:NAME --workdir runs/slimclr_NAME --config.data.root=DIR

NAME is a key of EXPERIMENTS; without one it is mocov2_200. DIR holds train/<wnid>/ and val/<wnid>/ (or a flat val with
val.txt). The published top-1 (top-5) of self-supervised rows is that of a linear probe at widths 1, 3/4, 1/2, 1/4,
configs/slimclr/imagenet_probe.py, run afterwards; None: not published.
"""

from jaxvl.core import config as configs
from jaxvl.methods.slimclr import recipe
from jaxvl.methods.slimclr.recipe import Published

EXPERIMENTS = {
    "mocov2_200": Published((67.4, 65.5, 62.5, 55.1), (87.9, 87.0, 84.8, 79.5)),
    "mocov2_800": Published((70.4, 68.8, 65.6, 57.6), (89.6, 88.8, 87.2, 81.5)),
    "mocov3_300": Published((72.3, 69.7, 67.6, 62.4), (90.8, 89.4, 88.2, 84.4)),
    "simclr_100": None,
    # four ordinary networks, each trained on its own
    "mocov2_alone_100": Published((67.2,), (87.8,)),
    "mocov2_alone_075": Published((64.3,), (85.8,)),
    "mocov2_alone_050": Published((58.9,), (82.2,)),
    "mocov2_alone_025": Published((47.9,), (72.8,)),
    "mocov3_alone_100": Published((72.8,)),
    # no technique, one technique each, other distillation losses
    "mocov2_naive": None,
    "mocov2_slow_start": None,
    "mocov2_distill": None,
    "mocov2_reweight": None,
    "mocov2_mse": None,
    "mocov2_dkd": None,
    "mocov2_atkd": None,
    "mocov2_full_distill": None,
    "mocov2_switch_head": None,  # a head a width
    "mocov2_disjoint": None,  # narrower widths share no channels; three widths, as four do not fit
    "mocov3_naive": None,
    # with labels
    "supervised": Published((76.0, 74.9, 72.2, 64.4)),
    "supervised_two": Published((76.0, 72.6)),
    "supervised_three": Published((76.0, 71.9, 64.4)),
    "supervised_alone_100": Published((76.6,)),
    "supervised_distill": None,  # narrower widths learn from the full one instead of the labels
}


def get_config(name="mocov2_200"):
    framework, _, what = configs.one_of(name, EXPERIMENTS).partition("_")
    epochs = int(what) if what.isdigit() else {"mocov2": 200, "mocov3": 300}.get(framework, 100)
    c = getattr(recipe, framework)(epochs)
    if what.startswith("alone_"):
        c.model.alone = int(what.removeprefix("alone_")) / 100
    elif framework == "supervised":
        c.model.widths = {"two": (1.0, 0.5), "three": (1.0, 0.5, 0.25)}.get(what, c.model.widths)
        c.model.inplace = "distill" if what == "distill" else "none"
    elif what in ("naive", "slow_start", "distill", "reweight"):
        full = c.model.to_dict()
        recipe.naive(c)
        if what != "naive":
            c.model[what] = full[what]
    elif what in ("mse", "dkd", "atkd"):
        c.model.distill = what
    elif what == "full_distill":
        c.model.full_distill = True
    elif what == "switch_head":
        c.model.head = "mocov2_switch"
    elif what == "disjoint":
        c.model.overlap, c.model.widths = False, (1.0, 0.5, 0.25)
    return c
