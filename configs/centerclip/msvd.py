"""CenterCLIP on MSVD (about 40 captions a video, all of them queries), and CLIP4Clip's heads.

    jaxvl train --config configs/centerclip/msvd.py:NAME --workdir runs/msvd_NAME \\
        --config.data.root=DIR --config.init.weights=WEIGHTS

NAME is a key of EXPERIMENTS; without one it is b32_kmedoids_b6_4_49. WEIGHTS is a folder that `jaxvl convert` wrote
of OpenAI's ViT-B-32.pt or ViT-B-16.pt. DIR holds train_list.txt, val_list.txt, test_list.txt, raw-captions.pkl and
videos/.

Published: 5 epochs at batch 128 on 2 V100 (b32) or 8 V100 (b16); memory and time as on MSR-VTT.
b32_kmedoids_b6_4_49 reached T->V R@1/5/10 47.6 77.5 86.0; its public checkpoint has T->V R@1 47.5, V->T R@1 61.4.
"""

from jaxvl.methods.centerclip import recipe
from jaxvl.methods.centerclip.recipe import Published

EXPERIMENTS = {
    "b32_meanp": Published((45.9, 74.9, 84.7, 2, 10.4), (51.0, 76.3, 82.2, 1, 9.1), 20.8, 24.4),
    "b32_kmedoids_b6_4_49": Published((47.6, 77.5, 86.0, 2, 9.8), (54.2, 78.4, 84.9, 1, 7.6), 15.0, 22.9),
    "b32_kmedoids_b6_3_49": Published((47.3, 76.8, 85.6, 2, 9.9), (57.9, 83.6, 90.5, 1, 5.2), 14.2, 22.9),
    "b32_spectral_b6_4_49": Published((47.4, 76.5, 85.2, 2, 9.7), (62.7, 88.1, 92.8, 1, 4.1), 14.9, 40.8),
    "b32_spectral_b6_3_49": Published((47.3, 76.9, 86.0, 2, 9.7), (63.5, 86.4, 92.6, 1, 3.8), 14.2, 43.6),
    "b16_meanp": Published((49.6, 79.5, 88.0, 2, 8.6), (62.7, 83.9, 89.4, 1, 6.1), 25.7, 59.6),
    "b16_kmedoids_b6_4_160": Published((50.6, 80.3, 88.4, 1, 8.4), (68.4, 90.1, 95.0, 1, 3.0), 17.6, 86.5),
    "b32_clip4clip_meanp": Published((46.2, 76.1, 84.6), (56.6, 79.7, 84.3)),
    "b32_clip4clip_seqtransf": Published((45.2, 75.5, 84.3), (62.0, 87.3, 92.6)),
}


def get_config(name="b32_kmedoids_b6_4_49"):
    c = recipe.experiment(recipe.one_of(name, EXPERIMENTS))
    c.data.reader = "msvd"
    return c
