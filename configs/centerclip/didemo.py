"""CenterCLIP on DiDeMo: all descriptions of a video joined, against its first 31 seconds.

    jaxvl train --config configs/centerclip/didemo.py:NAME --workdir runs/didemo_NAME \\
        --config.data.root=DIR --config.init.weights=WEIGHTS

NAME is a key of EXPERIMENTS; without one it is b32_kmedoids_b6_15_49. WEIGHTS is a folder that `jaxvl convert` wrote
of OpenAI's ViT-B-32.pt or ViT-B-16.pt. DIR holds train_list.txt, val_list.txt, test_list.txt, train_data.json,
val_data.json, test_data.json and videos/.

Published: nothing. The paper's loader reads DiDeMo, but no table has it; these configs take ActivityNet's recipe (60
frames, 77 tokens, 8 epochs), which is a choice of this project.
"""

from jaxvl.methods.centerclip import recipe

EXPERIMENTS = {
    "b32_meanp": None,
    "b32_kmedoids_b6_15_49": None,
    "b32_kmedoids_b6_12_49": None,
    "b32_spectral_b6_15_49": None,
}


def get_config(name="b32_kmedoids_b6_15_49"):
    c = recipe.experiment(recipe.one_of(name, EXPERIMENTS), epochs=8, lr=1e-2)
    c.data.update({"reader": "didemo", "frames": 60, "max_words": 77, "eval_batch_size": 8})
    return c
