"""CenterCLIP's config fields, the recipes of the paper and of CLIP4Clip, and the rows of their tables by name.

The files under `configs/centerclip/` start from here.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.config import one_of
from jaxvl.core.errors import InputError
from jaxvl.core.fields import below, choice, flag, folder, interval, like, many, only_if_given, real, whole

TOWERS = {"b32": "ViT-B/32", "b16": "ViT-B/16"}
ALGORITHMS = {"kmedoids": "kmedoids++"}  # in the names of rows; the others are spelled as in the config
SHIFTS = ("temporal_shift", "token_shift")
HEADS = {"meanp": "meanP", "seqtransf": "seqTransf", "seqlstm": "seqLSTM", "tighttransf": "tightTransf"}


class Published(NamedTuple):
    """A row of a published table.

    t2v, v2t: R@1, R@5, R@10 (percent), median and mean rank, as many of them as were given; memory_gb: a GPU, in
    training; ms: a video, in inference on one V100.
    """

    t2v: tuple[float, ...]
    v2t: tuple[float, ...] = ()
    memory_gb: float | None = None
    ms: float | None = None


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
        "linear_patch": "2d",  # or CLIP4Clip's '3d': patches of three frames
        "attention": "auto",  # of CLIP's towers: a name of jaxvl.nn.attention.ATTENTION_IMPLEMENTATIONS
        "schedule": "B6-4,49",  # after block 6: 4 segments of 49 centres each; 'none'; points joined by ';'
        "reduce": {
            "algorithm": "kmedoids++",  # spectral, pooling, sparse_sampling, random, temporal_shift, token_shift, none
            "aggregation": "medoid",  # or 'mean' of the cluster
            "metric": "l2",  # l1, cosine
            "pre_norm": False,
            "max_iters": 100,
            "cluster_iters": 0,  # exactly so many passes, free of collectives on a mesh; 0: until nothing moves
            "max_bytes": 256 * 2**20,  # of distance matrices that a device holds at once
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
        "frames_fps": 0.0,  # rate at which folders and arrays of frames were extracted; 0: that of fps
        "sampling": "official",  # of training: a name of jaxvl.data.sampling.SAMPLERS
        "frame_order": "forward",  # reversed, random: of the frames in a clip, in training and evaluation
        "eval_sampling": "uniform",  # of evaluation and search: one that draws nothing (linspace, head, tail)
        "batch_size": 128,
        "eval_batch_size": 32,
        "max_words": 32,
        "tokenizer": "clip",  # CLIP's byte-level BPE; or 'words', a vocabulary made of the training captions
        "shuffle_pairs": False,  # the control: captions dealt to other videos
        # of `jaxvl prepare`; 0: the model's size, all frames, no limit
        "records": {"short_side": 0, "quality": 90, "fps": 0.0, "max_frames": 0, "shards": 1},
    }
    return c


PRESET_SIZES = (
    *("image_size", "patch_size", "vision_width", "vision_layers", "vision_heads", "text_width", "text_layers"),
    *("text_heads", "embed_dim", "vocab_size", "context_length"),
)
SPRITES = "jaxvl.data.synthetic.sprites"
FIELDS = {
    "eval.ties": choice(of="jaxvl.metrics.retrieval:TIE_RULES"),
    "model.preset": choice(of="jaxvl.nn.clip:CLIP_PRESETS", also=("",)),
    **{f"model.{name}": whole(0, 2**20) for name in PRESET_SIZES},
    "model.activation": choice(of="jaxvl.nn.transformer:ACTIVATIONS", also=("",)),
    "model.ln_eps": real(0),
    "model.linear_patch": choice(of="jaxvl.nn.clip:LINEAR_PATCHES"),
    "model.attention": choice(of="jaxvl.nn.attention:ATTENTION_IMPLEMENTATIONS"),
    "model.schedule": like(r"\s*|none|(\s*B_?\s*\d+\s*[-−–]\s*\d+\s*,\s*\d+\s*;?)+", "none, or like B6-4,49;B8-2,49"),
    "model.reduce.algorithm": choice(of="jaxvl.methods.centerclip.reduce:ALGORITHMS"),
    "model.reduce.aggregation": choice(of="jaxvl.methods.centerclip.reduce:AGGREGATIONS"),
    "model.reduce.metric": choice(of="jaxvl.ops.clustering:METRICS"),
    "model.reduce.graph": choice(of="jaxvl.ops.clustering:GRAPHS"),
    "model.reduce.max_iters": whole(1),
    "model.reduce.cluster_iters": whole(0),
    "model.reduce.max_bytes": whole(1),
    "model.reduce.sigma": real(above=0),
    "model.reduce.knn_k": whole(0),
    "model.reduce.t_kernel": whole(1),
    "model.reduce.s_kernel": whole(1),
    **{f"model.reduce.{name}": flag() for name in ("pre_norm", "median_sigma", "mutual", "spg", "cluster_embedding")},
    "model.head": choice(of="jaxvl.nn.video_heads:HEADS"),
    "model.head_layers": whole(1, 1024),
    "model.head_ln_eps": real(above=0),
    "model.freeze_layer_num": whole(-1),
    "model.encoder_grad_scale": real(0),
    "model.logit_scale_range": interval(-100, 100),
    "model.mask_same_id": flag(),
    "data.reader": choice(of="jaxvl.methods.centerclip.data:READERS"),
    "data.root": folder(),
    "data.videos": below(),
    "data.train_csv": below(),
    "data.strict": flag(),
    "data.frames": whole(1, 2**16),
    "data.fps": real(0),
    "data.frames_fps": real(0),
    "data.sampling": choice(of="jaxvl.data.sampling:SAMPLERS"),
    "data.eval_sampling": choice(of="jaxvl.data.sampling:FIXED"),
    "data.frame_order": choice(of="jaxvl.data.sampling:ORDERS"),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
    "data.max_words": whole(2, 2**16),
    "data.tokenizer": choice("clip", "words"),
    "data.shuffle_pairs": flag(),
    "data.records.short_side": whole(0, 2**16),
    "data.records.quality": whole(1, 100),
    "data.records.fps": real(0),
    "data.records.max_frames": whole(0),
    "data.records.shards": whole(1, 2**20),
    **only_if_given(
        {
            "data.world.seed": whole(0),
            **{f"data.world.num_{split}": whole(0) for split in ("train", "val", "test")},
            "data.world.image_size": whole(32, 4096),
            "data.world.fps": whole(1, 1000),
            "data.world.seconds": interval(0.5, 86_400),
            "data.world.events_per_clip": many(whole(1, 4), 2, 2),
            "data.world.distractors": many(whole(0, 6), 2, 2),
            "data.world.nouns": many(choice(of=f"{SPRITES}.shapes:NOUNS"), 1),
            "data.world.colours": many(choice(of=f"{SPRITES}.shapes:COLOURS"), 1),
            "data.world.textures": many(choice(of=f"{SPRITES}.shapes:TEXTURES"), 1),
            "data.world.sizes": many(choice(of=f"{SPRITES}.shapes:SIZES"), 1),
            "data.world.tones": many(choice(of=f"{SPRITES}.shapes:TONES"), 1),
            "data.world.motions": many(choice(of=f"{SPRITES}.motions:MOTIONS"), 1),
            "data.world.backgrounds": many(choice(of=f"{SPRITES}.world:BACKGROUNDS"), 1),
            "data.world.camera_pan": real(0, 64),
            "data.world.brightness": real(0, 0.5),
            "data.world.captions_per_video": whole(1, 1000),
            "data.world.needle": flag(),
            "data.world.needle_segments": whole(1),
            "data.world.twins": real(0, 1),
            "data.world.heldout_pairs": real(0, 0.5),
            "data.world.crf": whole(0, 51),
            "data.world.gop": whole(1),
        }
    ),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""


def paper(epochs: int = 5, lr: float = 5e-3) -> ConfigDict:
    """Section 5 of the specification: AdamW (.9, .98, 1e-6), decay 0.2 on all but biases, rate `lr` for new modules
    and `lr`/1000 for CLIP's, 10 % warm-up, cosine, clipping at 1, batch 128, 5 epochs, seed 42.

    The last batch of an epoch is dropped, and every epoch ends with an evaluation.
    """
    c = base()
    c.seed = 42
    configs.in_epochs(c, epochs, evaluated=1)
    c.train.update({"log_every": 50, "clip_norm": 1.0, "eval_split": "test"})
    c.checkpoint.best_metric = "t2v/R@1"
    c.data.batch_size = 128
    c.data.records.fps = c.data.fps  # a tenth of the disk: no other frames are ever seen
    c.optim.main = configs.optimizer(
        lr=lr, warmup=0.1, floor=1e-8, b2=0.98, eps=1e-6, weight_decay=0.2, no_decay="bias",
        groups=((r"^(visual|text|logit)", 1e-3),),
    )  # fmt: skip
    c.precision.compute = "bfloat16"
    c.init.required = True
    c.model.reduce.cluster_iters = 10  # clusterings stand still after 1 to 6 passes; no collective on a mesh
    return c


def clip4clip(epochs: int = 5) -> ConfigDict:
    """CLIP4Clip's fine-tuning (arXiv 2104.08860): no reduction, a head over all frames, one frame a second, BertAdam
    with rate 1e-4 for the head and 1e-7 for CLIP, the warm-up cut out of an unshifted cosine, and each gradient
    clipped to norm 1 once more on its own."""
    c = paper(epochs)
    c.model.schedule, c.model.reduce.algorithm = "none", "none"
    c.model.logit_scale_range = (-100.0, math.log(100))  # CLIP4Clip has no lower bound
    c.data.update({"fps": 1.0, "sampling": "linspace", "eval_sampling": "linspace"})
    c.data.records.fps = 1.0
    c.optim.main.update(
        {"name": "bert_adam", "lr": 1e-4, "schedule": "cosine_unshifted", "floor": 0.0, "clip_leaf_norm": 1.0}
    )
    return c


def experiment(row: str, epochs: int = 5, lr: float = 5e-3) -> ConfigDict:
    """The config of a row by its name, TOWER_WHAT, without what depends on the data set.

    TOWER: `b32`, `b16`. WHAT: `meanp` (all tokens), `temporal_shift`, `token_shift`; `clip4clip_HEAD`, trained as
    `clip4clip` does; or ALGORITHM_bA_S_K with the schedule BA-S,K (and `_l1` for Manhattan distances), for example
    `b32_kmedoids_b6_4_49`. Raises InputError for any other name.
    """
    match = re.fullmatch(r"(b32|b16)_([a-z0-9_]+?)(?:_b(\d+)_(\d+)_(\d+)(_l1)?)?", row)
    if match is None:
        raise InputError(f"experiment {row!r}: is not like b32_kmedoids_b6_4_49 or b16_meanp")
    tower, what, after, segments, centres, metric = match.groups()
    if what.startswith("clip4clip_"):
        c = clip4clip(epochs)
        c.model.head = HEADS[one_of(what.removeprefix("clip4clip_"), HEADS)]
    else:
        c = paper(epochs, lr)
        if after is None:
            c.model.reduce.algorithm = "none" if what == "meanp" else one_of(what, SHIFTS)
        else:
            c.model.reduce.algorithm = ALGORITHMS.get(what, what)
        c.model.schedule = "none" if after is None else f"B{after}-{segments},{centres}"
    c.model.preset = TOWERS[tower]
    c.model.reduce.metric = "l1" if metric else "l2"
    if what == "spectral":
        c.model.reduce.graph = "knn"  # as in the public runs, with the paper's rule for the number of neighbours
    return c
