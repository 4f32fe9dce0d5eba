"""CenterCLIP on ActivityNet Captions: paragraphs of 77 tokens against whole videos of 60 frames (val_1 is the test).

    jaxvl train --config configs/centerclip/activitynet.py:NAME --workdir runs/activitynet_NAME \\
        --config.data.root=DIR --config.init.weights=WEIGHTS

NAME is a key of EXPERIMENTS; without one it is b32_kmedoids_b6_15_49. WEIGHTS is a folder that `jaxvl convert` wrote
of OpenAI's ViT-B-32.pt or ViT-B-16.pt. DIR holds train_ids.json, val_ids.json, train.json, val_1.json and videos/.

Published: 8 epochs of 78 updates at batch 128 with twice the rate of the other sets, on 8 V100 (b32) or 32 V100 (b16,
which without a reduction did not fit). b32_kmedoids_b6_15_49 reached T->V R@1/5/10 43.9 75.3 85.2. The batch needs as
many devices here; `--config.precision.remat=full` or `--config.train.accumulate=N` trade time for memory.
"""

from jaxvl.methods.centerclip import recipe
from jaxvl.methods.centerclip.recipe import Published

EXPERIMENTS = {
    "b32_meanp": Published((41.8, 73.9, 84.7, 2, 7.3), (42.8, 73.8, 85.3, 2, 6.9), 25.0, 82.0),
    "b32_kmedoids_b6_15_49": Published((43.9, 75.3, 85.2, 2, 7.0), (44.2, 75.0, 86.1, 2, 6.8), 16.8, 71.3),
    "b32_kmedoids_b6_12_49": Published((43.5, 75.0, 85.9, 2, 6.9), (44.5, 75.3, 86.0, 2, 6.7), 16.2, 70.4),
    "b32_spectral_b6_20_49": Published((43.5, 75.1, 85.4, 2, 6.9), (44.1, 75.1, 86.0, 2, 6.7), 17.7, 162.0),
    "b32_spectral_b6_15_49": Published((43.9, 74.6, 85.8, 2, 6.7), (44.5, 75.7, 86.2, 2, 6.5), 16.8, 174.0),
    "b16_meanp": None,  # out of memory on 32 V100
    "b16_kmedoids_b6_15_160": Published((46.2, 77.0, 87.6, 2, 5.7), (46.7, 77.1, 88.0, 2, 5.5), 23.0, 419.0),
}


def get_config(name="b32_kmedoids_b6_15_49"):
    c = recipe.experiment(recipe.one_of(name, EXPERIMENTS), epochs=8, lr=1e-2)
    c.data.update({"reader": "activitynet", "frames": 60, "max_words": 77, "eval_batch_size": 8})
    return c
