"""UTT on COCO, LaSOT, TrackingNet and GOT-10k (one object) and MOT17 or MOT16 and CrowdHuman (all objects).

    jaxvl train --config configs/utt/unified.py:NAME --workdir runs/NAME \\
        --config.data.root=DIR --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS; without one it is ours. DIR holds a folder for each set under its published name, RESNET50
is a folder that `jaxvl convert --from torchvision_resnet` wrote.

- ours: the released recipe with its slips mended (docs/methods/utt.md lists them)
- official: what the released code computes, slips included, for its weights and for comparisons
- paper: the paper's text where it differs (800,000 updates, other decay, MOT16 and CrowdHuman)
- r18_NAME: the paper's ablations, ResNet-18, 100,000 updates; NAME of jaxvl/methods/utt/recipe.py: ROWS

Published with ResNet-50: LaSOT success 64.6 and precision 67.2, TrackingNet 79.7 and 77.0, GOT-10k AO 67.2 (its
protocol forbids other training sets, the paper's number uses all of them); MOT16 test with FairMOT's boxes MOTA 74.2,
IDF1 63.4.
With ResNet-18: LaSOT 58.9 and 59.4, MOT16 half MOTA 65.4 and IDF1 59.9.
"""

from jaxvl.core import config as configs
from jaxvl.methods.utt import recipe

EXPERIMENTS = ("ours", "official", "paper", *(f"r18_{row}" for row in recipe.ROWS))


def get_config(name="ours"):
    row = configs.one_of(name, EXPERIMENTS)
    if row == "paper":
        return recipe.paper()
    c = recipe.released(100_000 if row.startswith("r18_") else 400_000)
    if row == "official":
        c.model.update(recipe.PARITY)
        c.train.clip_norm = 0.0
        c.eval.sot.coords = "official"
        c.eval.mot.update({"tracker": "released", "preprocess": False})
    if row.startswith("r18_"):
        c.model.depth = 18
        c = recipe.with_row(c, row.removeprefix("r18_"))
        c.data.update({"mot_train": ("mot16",), "mot_test": "mot16"} if c.data.mot_train else {})
    return c
