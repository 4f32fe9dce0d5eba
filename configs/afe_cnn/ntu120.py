"""AFE-CNN (reconstruction) on NTU RGB+D 120: 120 actions, 113,945 sequences.

    jaxvl train --config configs/afe_cnn/ntu120.py:NAME --workdir runs/NAME --config.data.root=DIR

NAME is xsub (half of 106 performers tested), xset (setups of odd number tested), or xsub with a row of
`jaxvl/methods/afe_cnn/recipe.py: ROWS`, such as xsub_no_te. DIR is that of `ntu60.py`, with all 32 setups.

The tables of the paper could not be read, so there is no published number to compare with here.
"""

from jaxvl.core import config as configs
from jaxvl.methods.afe_cnn import recipe

EXPERIMENTS = recipe.names("xsub", "xset")


def get_config(name="xsub"):
    protocol, row = recipe.split_name(configs.one_of(name, EXPERIMENTS))
    return recipe.with_row(recipe.ntu(protocol, 120), row)
