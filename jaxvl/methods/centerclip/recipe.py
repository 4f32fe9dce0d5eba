"""CenterCLIP's config fields and the recipe of the paper; the files under `configs/centerclip/` start from here."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxvl.core import config as configs

PAPER_STEPS = {"9k": 180_000 // 128 * 5, "7k": 140_200 // 128 * 5}  # updates of 5 epochs, last batch dropped


def base() -> ConfigDict:
    """Every field of the method with its default: MSR-VTT 1k-A, ViT-B/32, k-medoids++ after block 6."""
    c = configs.base()
    c.method = "centerclip"
    c.eval.ties = "optimistic"  # how ties with the right answer count; or 'official', 'pessimistic'
    c.model = {
        "preset": "ViT-B/32",  # '' or a name of jaxvl.nn.clip.CLIP_PRESETS
        "image_size": 0,  # this and the next thirteen fields replace those of the preset; 0 keeps it
        "patch_size": 0,
        "vision_width": 0,
        "vision_layers": 0,
        "vision_heads": 0,
        "text_width": 0,
        "text_layers": 0,
        "text_heads": 0,
        "embed_dim": 0,
        "vocab_size": 0,
        "context_length": 0,
        "activation": "",  # quick_gelu (OpenAI's weights) or gelu
        "ln_eps": 0.0,
        "schedule": "B6-4,49",  # after block 6: 4 segments of 49 centres each; 'none'; points joined by ';'
        "reduce": {
            "algorithm": "kmedoids++",  # spectral, pooling, sparse_sampling, random, temporal_shift, token_shift, none
            "aggregation": "medoid",  # or 'mean' of the cluster
            "metric": "l2",  # l1, cosine
            "pre_norm": False,
            "max_iters": 100,
            "cluster_iters": 0,  # exactly so many passes, free of collectives on a mesh; 0: until nothing moves
            "sigma": 2.0,  # of the spectral graph; this and the next six fields are for 'spectral' only
            "median_sigma": False,
            "graph": "heat",  # or 'knn'
            "knn_k": 0,  # below 5: the paper's rule
            "mutual": False,
            "spg": False,
            "t_kernel": 7,
            "s_kernel": 9,
            "cluster_embedding": False,
        },
        "head": "meanP",  # over the segments' features; or seqTransf, seqLSTM, tightTransf
        "head_layers": 4,
        "head_ln_eps": 1e-12,  # CLIP4Clip's value; CenterCLIP's code has 1e-5
        "freeze_layer_num": 0,  # CLIP4Clip's rule: -1 trains all, n >= 0 freezes the embeddings and blocks below n
        "encoder_grad_scale": 1.0,  # 1/GPUs mimics the published multi-GPU gradients
        "logit_scale_range": (0.1, 4.6052),
        "mask_same_id": False,  # leave other captions of the same video out of the negatives
    }
    c.data = {
        "reader": "msrvtt",  # msvd, lsmdc, activitynet, didemo, or records (a folder that `jaxvl prepare` wrote)
        "root": "",  # the data set's folder; '': WORKDIR/data
        "videos": "videos",  # folder (or LMDB) of the media, below root or absolute
        "train_csv": "MSRVTT_train.9k.csv",
        "strict": False,  # a missing video is an error instead of a counted skip
        "world": {},  # fields of jaxvl.data.synthetic.sprites.WorldConfig: render this world into root first
        "frames": 12,  # T
        "fps": 3.0,  # resample to so many frames a second before sampling; 0: the file's own frames
        "sampling": "official",  # of training; stratified, random_sorted
        "batch_size": 128,
        "eval_batch_size": 32,
        "max_words": 32,
        "tokenizer": "clip",  # CLIP's byte-level BPE; or 'words', a vocabulary made of the training captions
        "shuffle_pairs": False,  # the control: captions dealt to other videos
        "records": {"short_side": 0, "quality": 90, "fps": 0.0, "max_frames": 0, "shards": 1},  # of `jaxvl prepare`
    }
    return c


def paper(steps: int = PAPER_STEPS["9k"], lr: float = 5e-3) -> ConfigDict:
    """Section 5 of the specification: AdamW (.9, .98, 1e-6), decay 0.2 on all but biases, rate `lr` for new modules
    and `lr`/1000 for CLIP's, 10 % warm-up, cosine, clipping at 1, batch 128, 5 epochs, seed 42."""
    c = base()
    c.seed = 42
    c.train.update({"steps": steps, "log_every": 50, "eval_every": steps // 5, "eval_split": "test", "clip_norm": 1.0})
    c.train.checkpoint_every = steps // 5
    c.checkpoint.best_metric = "t2v/R@1"
    c.optim.main = configs.optimizer(
        lr=lr, warmup=0.1, floor=1e-8, b2=0.98, eps=1e-6, weight_decay=0.2, groups=((r"^(visual|text|logit)", 1e-3),)
    )
    c.precision.compute = "bfloat16"
    c.init.required = True
    c.model.reduce.cluster_iters = 10  # clusterings stand still after 1 to 6 passes; no collective on a mesh
    return c
