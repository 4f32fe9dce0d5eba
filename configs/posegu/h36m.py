"""PoseGU (reconstruction) and its baselines on Human3.6M, trained on S1, S5, S6, S7, S8 and tested on S9, S11.

    jaxvl train --config configs/posegu/h36m.py:NAME --workdir runs/NAME --config.data.root=DIR

DIR holds data_3d_h36m.npz and data_2d_h36m_*.npz. NAME is LIFTER_baseline (mlp, vpose, semgcn on real pairs alone),
LIFTER, which starts from the baseline (--config.init.weights=runs/LIFTER_baseline), or mlp_ROW, a row of
`jaxvl/methods/posegu/recipe.py: ROWS`. --config.data.keypoints=cpn_ft_h36m_dbb and others take detected joints.

Published in millimetres, MPJPE with true 2-D joints (PoseAug's summary, best epoch): baselines mlp 41.4, vpose 41.5,
semgcn 44.6. PoseGU's own table could not be read.
"""

from jaxvl.core import config as configs
from jaxvl.methods.posegu import recipe

EXPERIMENTS = (
    *(f"{lifter}{kind}" for lifter in recipe.LIFTERS for kind in ("_baseline", "")),
    *(f"mlp_{row}" for row in recipe.ROWS if row != "posegu"),
)


def get_config(name="mlp"):
    lifter, _, row = configs.one_of(name, EXPERIMENTS).partition("_")
    if row == "baseline":
        return recipe.baseline(lifter)
    return recipe.with_row(recipe.generated(lifter), row or "posegu")
