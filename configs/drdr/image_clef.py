"""DRDR on ImageCLEF-DA, ResNet-50: the six pairs of its three domains; Office-31's weights, the paper has no table.

    jaxvl train --config configs/drdr/image_clef.py:NAME --workdir runs/NAME \\
        --config.data.root=ROOT --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS, for example uda_i_p; without one it is uda_i_p. ROOT holds list/{c,i,p}List.txt with lines
`path label`, and the pictures that they name. RESNET50 is a folder that `jaxvl convert --from torchvision_resnet` wrote
of ImageNet weights.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

EXPERIMENTS = recipe.pairs(("c", "i", "p"))


def get_config(name="uda_i_p"):
    return recipe.paper("image_clef", 12, EXPERIMENTS[configs.one_of(name, EXPERIMENTS)], "office31")
