"""PoseGU (reconstruction) on real human motion from eight frames of walking: what each part does.

    jaxvl train --config configs/posegu/mocap.py:NAME --workdir runs/NAME

NAME is seeds (no generator) or a row of `jaxvl/methods/posegu/recipe.py: ROWS`, and each of these with `biased_` in
front: a generator that hardly leaves its seeds, and a narrower network. `python -m benchmarks.claims.posegu_mocap` runs
those that the claims are about with three seeds. Nothing has to be given; a minute or two on two CPU cores.
"""

from jaxvl.core import config as configs
from jaxvl.methods.posegu import recipe

KINDS = ("seeds", *recipe.ROWS)
EXPERIMENTS = (*KINDS, *(f"biased_{kind}" for kind in KINDS))


def get_config(name="posegu"):
    name = configs.one_of(name, EXPERIMENTS)
    return recipe.mocap(name.removeprefix("biased_"), name.startswith("biased_"))
