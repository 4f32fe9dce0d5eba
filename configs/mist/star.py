"""MIST on STAR: four options a question about a trimmed part of a Charades video.

    jaxvl train --config configs/mist/star.py:NAME --workdir runs/NAME \\
        --config.data.root=DIR --config.init.weights=BERT --config.data.clip_weights=CLIP

NAME is a key of EXPERIMENTS; without one it is paper, AGQA's architecture (the released code of this benchmark does not
run). DIR holds STAR_{train,val,test}.json and features/, one entry a question. The answers of the test split lie on a
server, so val is evaluated.

Published: 55.59 interaction, 54.23 sequence, 54.24 prediction, 44.48 feasibility; printed mean 51.13 (that of the four
printed numbers is 52.14).
"""

from jaxvl.core import config as configs
from jaxvl.methods.mist import recipe

EXPERIMENTS = (*recipe.COMMON, "distilbert")


def get_config(name="paper"):
    c = recipe.paper(5e-5, 128, 300)
    c.checkpoint.best_metric = "mean"
    c.eval.split = "val"
    c.data.update({"reader": "star", "answer_words": 38})
    c.model.update({"num_answers": 0, "num_options": 4})
    return recipe.with_row(c, configs.one_of(name, EXPERIMENTS))
