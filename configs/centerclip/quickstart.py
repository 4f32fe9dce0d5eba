"""CenterCLIP on the sprite world, from scratch, on two CPU cores.

    jaxvl train --config configs/centerclip/quickstart.py --workdir runs/quickstart

Renders captioned clips to real H.264 files in the MSR-VTT layout, reads them back through the MSR-VTT reader, trains
a tiny CLIP whose third block on sees cluster centres only, and ranks 256 unseen clips by unseen captions.
"""

from jaxvl.core import config as configs
from jaxvl.data.synthetic.sprites.motions import ORDER_FREE_MOTIONS
from jaxvl.methods.centerclip import recipe


def get_config():
    c = recipe.base()
    c.train.update({"steps": 600, "log_every": 20, "checkpoint_every": 300, "clip_norm": 1.0})
    c.optim.main = configs.optimizer(lr=2e-3, warmup=0.1, floor=1e-8, b2=0.98, eps=1e-6, weight_decay=0.05)
    c.model.update(
        {
            "preset": "tiny",
            "image_size": 64,
            "patch_size": 16,
            "vision_width": 96,
            "vision_layers": 4,
            "text_width": 96,
            "vocab_size": 256,
            "schedule": "B2-3,16",  # after block 2: 3 segments of 16 centres each, of 64 tokens
            "freeze_layer_num": -1,
        }
    )
    c.data.world = {
        "num_train": 1000,
        "num_val": 64,
        "num_test": 256,
        "image_size": 64,
        "motions": ORDER_FREE_MOTIONS,  # a mean over segments cannot tell left from right
        "sizes": ("medium", "large"),
        "captions_per_video": 5,
    }
    c.data.update({"tokenizer": "words", "max_words": 24})
    c.data.update({"fps": 0.0, "sampling": "stratified", "batch_size": 48, "eval_batch_size": 64})
    return c
