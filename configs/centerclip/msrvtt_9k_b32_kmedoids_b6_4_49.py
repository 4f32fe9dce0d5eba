"""CenterCLIP ViT-B/32, k-medoids++ B6-4,49 on MSR-VTT 1k-A, trained on the 9k split (table 2 of the paper).

    jaxvl train --config configs/centerclip/msrvtt_9k_b32_kmedoids_b6_4_49.py --workdir runs/msrvtt \\
        --config.data.root=DIR --config.init.weights=WEIGHTS

Published from OpenAI's CLIP weights on 2 V100: T->V R@1/5/10 43.6 71.4 81.2, MdR 2, MnR 15.3; V->T 42.9 70.4 80.8.
WEIGHTS is a folder that `jaxvl convert --from openai_clip ViT-B-32.pt --to WEIGHTS` wrote.
DIR holds MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv and videos/.
"""

from jaxvl.methods.centerclip import recipe


def get_config():
    return recipe.paper()
