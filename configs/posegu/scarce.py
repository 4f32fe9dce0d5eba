"""PoseGU (reconstruction) and its baseline from few poses of Human3.6M, tested on S9 and S11.

    jaxvl train --config configs/posegu/scarce.py:NAME --workdir runs/NAME --config.data.root=DIR

NAME is SEEDS_baseline or SEEDS. SEEDS is a share of a subject's training poses, such as 0.01S1, whole subjects, such as
S156, or spread100 and spread1000, the so many poses that differ most. Network mlp, true 2-D joints. From 5,000 seeds on
a run without _baseline starts from the baseline: --config.init.weights=runs/SEEDS_baseline.

Published with detected 2-D joints and all of S1 (EvoSkeleton): MPJPE 60.8, PA-MPJPE 46.2 mm. PoseGU's own table could
not be read.
"""

from jaxvl.core import config as configs
from jaxvl.methods.posegu import recipe

SEEDS = {seeds.replace("seeds:", "spread"): seeds for seeds in recipe.SEED_SETS if seeds != "S15678"}
EXPERIMENTS = tuple(f"{seeds}{kind}" for seeds in SEEDS for kind in ("_baseline", ""))


def get_config(name="S1"):
    seeds, _, kind = configs.one_of(name, EXPERIMENTS).partition("_")
    return (recipe.baseline if kind else recipe.generated)("mlp", SEEDS[seeds])
