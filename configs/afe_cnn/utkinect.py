"""AFE-CNN (reconstruction) on UTKinect-Action3D: ten actions, 199 sequences of twenty recordings.

    jaxvl train --config configs/afe_cnn/utkinect.py:NAME --workdir runs/NAME --config.data.root=DIR

NAME is loso (recording number `config.data.fold` is tested, the others are trained on), xsub_odd (odd subjects trained,
even ones tested), or loso with a row of `jaxvl/methods/afe_cnn/recipe.py: ROWS`. Which of the two the paper used is not
known. DIR holds actionLabel.txt and joints/.
"""

from jaxvl.core import config as configs
from jaxvl.methods.afe_cnn import recipe

EXPERIMENTS = recipe.names("loso", "xsub_odd")


def get_config(name="loso"):
    protocol, row = recipe.split_name(configs.one_of(name, EXPERIMENTS))
    return recipe.with_row(recipe.utkinect(protocol), row)
