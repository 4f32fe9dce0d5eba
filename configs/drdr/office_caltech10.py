"""DRDR on Office-Caltech10, ResNet-50: twelve pairs, three pooled sources to one target, one source to three targets.

    jaxvl train --config configs/drdr/office_caltech10.py:NAME --workdir runs/NAME \\
        --config.data.root=ROOT --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS: uda_a_c, msda_cdw_a or dal_a_cdw (domain-agnostic: the targets are one unlabelled pool,
accuracy is given for each and averaged); without one it is dal_a_cdw. ROOT holds amazon/, caltech/, dslr/, webcam/,
each with class folders, or with images/ and the class folders in it. RESNET50 is a folder that `jaxvl convert --from
torchvision_resnet` wrote of ImageNet weights. Published: 20,000 updates of 64 + 64 images on one GPU.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

DOMAINS = ("amazon", "caltech", "dslr", "webcam")
EXPERIMENTS = recipe.pairs(DOMAINS) | recipe.many_to_one(DOMAINS, 3) | recipe.one_to_many(DOMAINS)


def get_config(name="dal_a_cdw"):
    return recipe.paper("office_caltech10", 10, EXPERIMENTS[configs.one_of(name, EXPERIMENTS)])
