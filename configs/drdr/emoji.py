"""DRDR on emoji in four styles, from scratch: 29 classes of things, source and target show different things.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 @lobehub/fluent-emoji-3d@1.1.0 \\
        @expo-google-fonts/noto-emoji@0.4.7        # in PACKAGES; unpack each archive into a folder of its own
    jaxvl prepare --config configs/drdr/emoji.py --out EMOJI \\
        --config.data.reader=emoji_packages --config.data.root=PACKAGES
    jaxvl train --config configs/drdr/emoji.py:uda_n_l --workdir runs/emoji --config.data.root=EMOJI

NAME is a key of EXPERIMENTS: n(oto), t(wemoji), f(luent3d), l(ine). 351 names on each side and no pretrained trunk:
a small, hard set that shows the whole way, not a strong classifier. `--config.data.shared_names=true` makes it easier.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

EXPERIMENTS = recipe.pairs(("noto", "twemoji", "fluent3d", "line"))


def get_config(name="uda_n_l"):
    c = recipe.base()
    c.train.update({"steps": 1500, "log_every": 100, "eval_every": 0, "checkpoint_every": 1500})
    c.optim.main = recipe.optimizer(3e-3, 5e-4)
    c.model.update({"classes": 29, "trunk": "resnet", "depth": 18, "width": 16, "bottleneck_dim": 64})
    c.model.burn_in = 0.1
    c.data.update({"reader": "emoji", "task": EXPERIMENTS[configs.one_of(name, EXPERIMENTS)], "image_size": 64})
    c.data.test_resize = 0
    return c
