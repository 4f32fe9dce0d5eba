"""DRDR on Office-31, ResNet-50: the six pairs of one source and one target, and two pooled sources to one target.

    jaxvl train --config configs/drdr/office31.py:NAME --workdir runs/NAME \\
        --config.data.root=ROOT --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS, for example uda_a_w; without one it is uda_a_w. ROOT holds amazon/, dslr/, webcam/, each
with class folders, or with images/ and the class folders in it. RESNET50 is a folder that `jaxvl convert --from
torchvision_resnet` wrote of ImageNet weights.

Published: 20,000 updates of 64 + 64 images on one GPU. The paper claims the best average of its time, 89 or more;
source only reaches 76.1 (A-W 68.4, D-W 96.7, W-D 99.3, A-D 68.9, D-A 62.5, W-A 60.7).
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

DOMAINS = ("amazon", "dslr", "webcam")
EXPERIMENTS = recipe.pairs(DOMAINS) | recipe.many_to_one(DOMAINS, 2)


def get_config(name="uda_a_w"):
    task = EXPERIMENTS[configs.one_of(name, EXPERIMENTS)]
    return recipe.paper("office31", 31, task, "office31_msda" if name.startswith("msda") else "office31")
