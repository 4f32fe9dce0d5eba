"""DRDR on Office-Home, ResNet-50: twelve pairs, two pooled sources to one target, and a test on an unseen domain.

    jaxvl train --config configs/drdr/office_home.py:NAME --workdir runs/NAME \\
        --config.data.root=ROOT --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS, for example uda_a_c (Art to Clipart), msda_ac_p or dg_a_c_p (Art to Clipart, tested on
Product); without one it is uda_a_c. ROOT holds Art/, Clipart/, Product/, Real_World/ (or `Real World/`), each with its
65 class folders. RESNET50 is a folder that `jaxvl convert --from torchvision_resnet` wrote of ImageNet weights.

Published: 20,000 updates of 64 + 64 images on one GPU. The paper claims the best average of its time, 68.5 or more;
source only reaches 46.1.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

DOMAINS = ("Art", "Clipart", "Product", "Real_World")
EXPERIMENTS = recipe.pairs(DOMAINS) | recipe.many_to_one(DOMAINS, 2) | {"dg_a_c_p": "Art->Clipart"}


def get_config(name="uda_a_c"):
    task = EXPERIMENTS[configs.one_of(name, EXPERIMENTS)]
    rule = "office_home" if name.startswith("uda") else "office_home_msda"
    return recipe.paper("office_home", 65, task, rule, "Product" if name.startswith("dg") else "")
