"""AFE-CNN (reconstruction) on NTU RGB+D: 60 actions, 56,578 sequences.

    jaxvl train --config configs/afe_cnn/ntu60.py:NAME --workdir runs/NAME --config.data.root=DIR

NAME is xsub (40 performers, half of them tested), xview (one of three cameras tested), or xsub with a row of
`jaxvl/methods/afe_cnn/recipe.py: ROWS`, such as xsub_no_kje. DIR holds the .skeleton files, with the list of
samples with missing skeletons somewhere below. Prepared arrays and pickles: --config.data.reader=npz or pkl.

The tables of the paper could not be read, so there is no published number to compare with here.
"""

from jaxvl.core import config as configs
from jaxvl.methods.afe_cnn import recipe

EXPERIMENTS = recipe.names("xsub", "xview")


def get_config(name="xsub"):
    protocol, row = recipe.split_name(configs.one_of(name, EXPERIMENTS))
    return recipe.with_row(recipe.ntu(protocol, 60), row)
