"""The small world of the claims: 40 warped patterns, 16x16, rendered to PNG files; about a minute on two CPU cores.

    jaxvl train --config configs/slimclr/patterns.py:NAME --workdir runs/patterns_NAME

NAME is a key of EXPERIMENTS; without one it is slim. benchmarks/claims/slimclr.py runs them all on three seeds.
"""

from jaxvl.core import config as configs
from jaxvl.methods.slimclr import recipe

EXPERIMENTS = {
    "slim": "slow start, distillation as released, re-weighting",
    "scaled": "the same with distillation of scaled logits",
    "slow_start": "slow start alone",
    "distill": "distillation alone",
    "reweight": "re-weighting alone",
    "naive": "none",
    "alone_100": "a separate network",
    "alone_050": "a separate network",
    "alone_025": "a separate network",
}


def get_config(name="slim"):
    name = configs.one_of(name, EXPERIMENTS)
    c = recipe.small(recipe.base(), steps=400, size=16)
    c.eval.update({"split": "test", "monitors": ("knn", "linear", "shared", "pixels"), "knn_k": 20})
    c.train.eval_split = "test"
    c.model.analyse_every = 20
    c.data.update({"reader": "folder", "classes": 40, "augment": "patterns"})
    c.data.world = {"size": 16}
    if name in ("naive", "slow_start", "distill", "reweight"):
        full = c.model.to_dict()
        recipe.naive(c)
        if name != "naive":
            c.model[name] = full[name]
    elif name == "scaled":
        c.model.update({"distill_logits": "scaled", "distill_temperature": 1.0})
    elif name.startswith("alone_"):
        c.model.alone = int(name.removeprefix("alone_")) / 100
    return c
