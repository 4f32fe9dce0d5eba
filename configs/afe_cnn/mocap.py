"""AFE-CNN (reconstruction) on worlds of real motion: whole clips, or small gestures inside of other motion.

    jaxvl train --config configs/afe_cnn/mocap.py:NAME --workdir runs/NAME

NAME is gestures or clips, alone or with a row of `jaxvl/methods/afe_cnn/recipe.py: ROWS`, such as gestures_coordinates.
Of clips 1,500 are trained on and 300 tested (twenty classes), of gestures 3,000 and 500 (eight classes, chance 12.5 %);
the test is seen from other sides and on smaller bodies. `benchmarks/claims/afe_cnn_gestures.py` runs the rows with
three seeds. Nothing has to be given; a minute or two on two CPU cores.
"""

from jaxvl.core import config as configs
from jaxvl.methods.afe_cnn import recipe

CLIPS = ("coordinates", "no_modules", "no_modules_no_size", "no_normalisation")
EXPERIMENTS = (*recipe.names("gestures", "clips"), *(f"clips_{row}" for row in CLIPS))
SIZES = {"clips": (600, 1500, 300, "both"), "gestures": (800, 3000, 500, "gestures")}


def get_config(name="gestures"):
    kind, row = recipe.split_name(configs.one_of(name, EXPERIMENTS))
    steps, num_train, num_test, seen = SIZES[kind]
    c = recipe.with_row(recipe.mocap(kind, steps), row)
    c.data.world = {"kind": kind, "num_train": num_train, "num_test": num_test, "seen": seen}
    return c
