"""CenterCLIP on LSMDC (film clips, one sentence each; 1,000 test clips), and CLIP4Clip's heads.

    jaxvl train --config configs/centerclip/lsmdc.py:NAME --workdir runs/lsmdc_NAME \\
        --config.data.root=DIR --config.init.weights=WEIGHTS

NAME is a key of EXPERIMENTS; without one it is b32_kmedoids_b6_4_49. WEIGHTS is a folder that `jaxvl convert` wrote
of OpenAI's ViT-B-32.pt or ViT-B-16.pt. DIR holds LSMDC16_annos_training.csv, LSMDC16_annos_val.csv,
LSMDC16_challenge_1000_publictect.csv and videos/.

Published: 5 epochs at batch 128 on 2 V100 (b32) or 8 V100 (b16). b32_kmedoids_b6_4_49 reached T->V R@1/5/10 21.7 39.8
49.8, b32_kmedoids_b6_6_49 21.9 41.1 50.7; the public checkpoints (2 RTX 3090) have the same R@1.
"""

from jaxvl.methods.centerclip import recipe
from jaxvl.methods.centerclip.recipe import Published

EXPERIMENTS = {
    "b32_meanp": Published((20.1, 40.2, 48.4, 12, 57.1), (21.2, 39.3, 48.4, 12, 50.8)),
    "b32_kmedoids_b6_6_49": Published((21.9, 41.1, 50.7, 10, 55.6), (21.1, 41.2, 50.2, 10, 48.7), 16.4, 23.9),
    "b32_kmedoids_b6_4_49": Published((21.7, 39.8, 49.8, 11, 54.8), (21.4, 40.3, 50.8, 10, 48.4), 15.0, 22.9),
    "b32_spectral_b6_6_49": Published((21.6, 40.9, 49.3, 11, 57.2), (20.6, 39.5, 48.8, 12, 51.4), 16.4, 40.8),
    "b32_spectral_b6_4_49": Published((21.4, 39.7, 49.4, 11, 55.9), (19.5, 39.9, 48.0, 12, 50.1), 15.0, 43.6),
    "b16_meanp": Published((24.1, 45.0, 55.1, 8, 51.1), (22.5, 42.9, 53.5, 9, 45.1)),
    "b16_kmedoids_b6_4_160": Published((24.2, 46.2, 55.9, 8, 47.3), (24.5, 46.4, 55.8, 7, 41.3)),
    "b32_clip4clip_meanp": Published((20.7, 38.9, 47.2)),
    "b32_clip4clip_seqtransf": Published((22.6, 41.0, 49.1)),
}


def get_config(name="b32_kmedoids_b6_4_49"):
    c = recipe.experiment(recipe.one_of(name, EXPERIMENTS))
    c.data.reader = "lsmdc"
    return c
