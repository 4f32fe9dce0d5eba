"""SlimCLR on Fashion-MNIST, 28x28, minutes on two CPU cores; the separate networks and the naive one beside it.

    jaxvl train --config configs/slimclr/fashion_mnist.py:NAME --workdir runs/fashion_NAME --config.data.root=DIR

NAME is a key of EXPERIMENTS; without one it is slim. DIR holds the four IDX files, gzipped or not (Debian's package
dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist). Development looks at `val`, 2,000 held-out
training pictures.
"""

from jaxvl.core import config as configs
from jaxvl.methods.slimclr import recipe

EXPERIMENTS = {
    "slim": "the three techniques",
    "naive": "none of them",
    "alone_100": "a separate network",
    "alone_050": "a separate network",
    "alone_025": "a separate network",
}


def get_config(name="slim"):
    name = configs.one_of(name, EXPERIMENTS)
    c = recipe.small(recipe.base(), steps=600, size=28)
    c.eval.update({"split": "test", "knn_k": 20})
    c.train.eval_split = "val"
    c.data.update({"reader": "fashion_mnist", "classes": 10, "holdout": 2000, "bank": 5000, "augment": "small"})
    if name == "naive":
        recipe.naive(c)
    elif name.startswith("alone_"):
        c.model.alone = int(name.removeprefix("alone_")) / 100
    return c
