"""PoseGU (reconstruction) and its baselines on data sets that were not trained on: MPI-INF-3DHP and 3DPW.

    jaxvl train --config configs/posegu/cross.py:NAME --workdir runs/NAME --config.data.root=DIR \\
        --config.data.root_3dhp=FILE

NAME is SET_LIFTER_baseline or SET_LIFTER; SET is 3dhp or 3dpw, LIFTER mlp, vpose or semgcn. Trained on Human3.6M in DIR
with true 2-D joints; FILE is test_3dhp.npz or the folder of TS1 to TS6; of 3DPW, --config.data.root_3dpw, the folder
sequenceFiles. On MPI-INF-3DHP the predictions for a pose and its mirror image are averaged. Without _baseline the
run starts from a baseline: --config.init.weights=runs/SET_LIFTER_baseline.

Published on MPI-INF-3DHP: PoseGU PCK 86.3, AUC 55.1, MPJPE 79.1 mm (with which network could not be read). Baselines in
PoseAug's summary, MPJPE in mm, best epoch: mlp 83.1, vpose 85.4, semgcn 97.7.
"""

from jaxvl.core import config as configs
from jaxvl.methods.posegu import recipe

EXPERIMENTS = tuple(
    f"{test}_{lifter}{kind}" for test in ("3dhp", "3dpw") for lifter in recipe.LIFTERS for kind in ("_baseline", "")
)


def get_config(name="3dhp_mlp"):
    test, lifter, *kind = configs.one_of(name, EXPERIMENTS).split("_")
    c = recipe.baseline(lifter) if kind else recipe.generated(lifter)
    c.data.update({"test": (test,), "averaging": "per_frame"})
    c.model.flip = (test,) if test == "3dhp" else ()
    return c
