"""CenterCLIP on the sprite world, from scratch, on two CPU cores.

    jaxvl train --config configs/centerclip/quickstart.py --workdir runs/quickstart

Renders captioned clips to real H.264 files in the MSR-VTT layout, reads them back through the MSR-VTT reader,
trains a tiny CLIP whose third block on sees cluster centres only, and ranks unseen clips by unseen captions.
"""

from jaxvl.core import config as configs


def get_config():
    c = configs.base()
    c.method = "centerclip"
    c.train.steps = 600
    c.train.log_every = 20
    c.train.checkpoint_every = 200
    c.train.clip_norm = 1.0
    c.optim.main = configs.optimizer(
        name="adamw", lr=2e-3, warmup=0.1, b2=0.98, eps=1e-6, weight_decay=0.05, floor=1e-8, no_decay=r"bias$"
    )
    c.eval.ties = "optimistic"  # or 'official', 'pessimistic'
    c.model = {
        "preset": "tiny",  # '' or one of jaxvl.nn.clip.CLIP_PRESETS; the fields below replace those of the preset
        "image_size": 64,
        "patch_size": 16,
        "vision_width": 96,
        "vision_layers": 4,
        "vision_heads": 4,
        "text_width": 96,
        "text_layers": 2,
        "text_heads": 4,
        "embed_dim": 64,
        "vocab_size": 256,
        "context_length": 32,
        "schedule": "B2-3,16",  # after block 2: 3 segments of 16 centres each (of 64 tokens)
        "reduce": {"algorithm": "kmedoids++"},
        "freeze_layer_num": -1,  # CLIP4Clip's rule: -1 trains all, n >= 0 trains blocks from n on
        "encoder_grad_scale": 1.0,
        "logit_scale_range": (0.1, 4.6052),
        "mask_same_id": False,  # leave other captions of the same video out of the negatives
    }
    c.data = {
        "reader": "msrvtt",  # or 'msvd'
        "root": "",  # '': WORKDIR/data
        "videos": "videos",
        "train_csv": "MSRVTT_train.9k.csv",
        "strict": False,
        "world": {
            "num_train": 1200,
            "num_val": 64,
            "num_test": 256,
            "image_size": 64,
            "captions_per_video": 5,
        },
        "frames": 12,
        "fps": 0.0,  # resample to so many frames a second before sampling; 0: the file's own frames
        "sampling": "stratified",  # or 'official'
        "batch_size": 48,
        "eval_batch_size": 64,
        "max_words": 24,
        "tokenizer": "words",
        "shuffle_pairs": False,  # the control: captions dealt to other videos
    }
    return c
