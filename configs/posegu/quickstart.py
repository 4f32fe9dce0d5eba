"""PoseGU (reconstruction) on real human motion: poses of a whole repertoire from eight frames of walking.

    jaxvl train --config configs/posegu/quickstart.py --workdir runs/posegu

Eight frames of a walk that comes with the package are the seeds; a generator makes 20,000 poses of them. The test are
all frames of fourteen other clips (cartwheel, kick, crawl, ...), each before a camera that is drawn. About a minute on
two CPU cores; MPJPE 133 mm. `quickstart.py:seeds` trains the same network on the eight frames alone: 387 mm.
"""

from jaxvl.core import config as configs
from jaxvl.methods.posegu import recipe

EXPERIMENTS = ("posegu", "seeds")


def get_config(name="posegu"):
    return recipe.mocap(configs.one_of(name, EXPERIMENTS))
