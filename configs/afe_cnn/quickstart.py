"""AFE-CNN (reconstruction) on real human motion, seen from sides and on bodies it was never trained on.

    jaxvl train --config configs/afe_cnn/quickstart.py --workdir runs/afe_cnn

Twenty motion-capture clips that come with the package (walk, kick, cartwheel, ...) are written as CSV files of joints:
600 for training, seen from the front, and 200 for test, seen from all around and on bodies of 60 to 80 % of the size.
Minutes on two CPU cores. With 200 updates in place of 300 it recognises 99.5 % of the test (chance 5 %).
`quickstart.py:coordinates` is the same network without enhancers and normalisation.
"""

from jaxvl.core import config as configs
from jaxvl.methods.afe_cnn import recipe

EXPERIMENTS = ("full", "coordinates")


def get_config(name="full"):
    c = recipe.with_row(recipe.mocap("clips", 300), configs.one_of(name, EXPERIMENTS))
    c.data.world = {"kind": "clips", "num_train": 600, "num_test": 200}
    return c
