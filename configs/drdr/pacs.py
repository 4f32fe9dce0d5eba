"""DRDR's leave-one-out generalisation on PACS, ResNet-50: three labelled domains, tested on the fourth, never seen one.

    jaxvl train --config configs/drdr/pacs.py:NAME --workdir runs/NAME \\
        --config.data.root=ROOT --config.init.weights=RESNET50

NAME is a key of EXPERIMENTS, named after the domain left out; without one it is loo_sketch. Ours, not the
paper's: every pair of training domains is matched by translation and local refinement with true labels, no transport.
ROOT holds art_painting/, cartoon/, photo/, sketch/ with seven class folders each; with the published lists
<domain>_{train,test}_kfold.txt beside them, these are used. RESNET50 is a folder that `jaxvl convert --from
torchvision_resnet` wrote of ImageNet weights.
"""

from jaxvl.core import config as configs
from jaxvl.methods.drdr import recipe

DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
EXPERIMENTS = {f"loo_{d}": "/".join(o for o in DOMAINS if o != d) + "->" for d in DOMAINS}


def get_config(name="loo_sketch"):
    task = EXPERIMENTS[configs.one_of(name, EXPERIMENTS)]
    c = recipe.paper("pacs", 7, task, "office_home_msda", name.removeprefix("loo_"))
    c.model.weights.update({"transport": 0.0, "consensus": 0.0})
    return c
