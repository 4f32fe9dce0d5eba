"""MIST on Env-QA: open questions about egocentric videos, scored by the roles in an answer.

    jaxvl train --config configs/mist/envqa.py:NAME --workdir runs/NAME \\
        --config.data.root=DIR --config.init.weights=BERT --config.data.clip_weights=CLIP

NAME is a key of EXPERIMENTS; without one it is paper. No code or recipe was released for this benchmark: architecture
and recipe are AGQA's. The answers are the 1,000 most frequent ones of the training split (config.model.num_answers);
what is outside counts as wrong in acc@1 and by its roles in role_score. DIR holds {train,val,test}_full_question.json,
env_qa_video_annotations_v1.json, answer_space.json (role -> candidates, the first NONE) and features/.
"""

from jaxvl.core import config as configs
from jaxvl.methods.mist import recipe

EXPERIMENTS = recipe.COMMON


def get_config(name="paper"):
    c = recipe.paper(3e-5, 128, 100)
    c.checkpoint.best_metric = "role_score"
    c.data.update({"reader": "envqa", "answer_words": 24})
    c.model.num_answers = 1000
    return recipe.with_row(c, configs.one_of(name, EXPERIMENTS))
