"""UTT's config fields, the recipes of the paper and of its code, and its sets.

The two training streams and their fields are listed in `method.batch_spec`. A split has the streams `sot` and `mot`, as
far as `data.sot_test` and `data.mot_test` name a set; both are `Sequences`, followed frame by frame (`evaluators`).
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.fields import choice, flag, folder, interval, many, only, only_if_given, real, whole


def base() -> ConfigDict:
    """Every field of the method with its default: ResNet-50, the published sizes, both tasks in turns."""
    c = configs.base()
    c.method = "utt"
    c.model = {
        "mode": "mix",  # both tasks in turns; or one of them: sot, mot
        "depth": 50,  # of the ResNet
        "width": 64,  # channels of its stem
        "blocks": (),  # of its stages; (): those of the depth
        "dim": 512,  # C
        "heads": 8,
        "ff_dim": 1024,
        "iterations": 6,  # L of the target transformer
        "pool": 7,  # side of a patch
        "object_size": 1,  # side of the pooled target
        "box_layers": 3,  # hidden layers of a box module
        "interaction": "correlation",  # or cross_attention
        "self_attention": True,  # of the targets in the target transformer
        "expand_scale": 1.0,  # area of the patch over that of the box
        "output_score": False,  # a score for each target
        "target_decoder": True,  # of one object: its vector is refined by the frame
        "proposal_decoder": True,  # of one object: the first box comes from a map of corners, not from the last frame
        "decoder_layers": 6,  # of the target decoder
        "corner_centres": False,  # corners are counted from cell centres
        "proposal_min_side": 0.0,  # pixels, of the first box where the target transformer begins
        "track_level": 1,  # targets are followed at stride 8, 16, 32 for 0, 1, 2
        "mot_levels": "single",  # patches of many objects: that level, or the pyramid of four
        "mot_target_levels": "single",  # their vectors alike
        "mot_target_at": "template",  # where in the first picture a vector is taken; 'proposal' as released
        "mot_target_grad": "proj",  # what many objects train of a vector: its projection; 'none' as released
        "noise_min_iou": 0.1,  # of the noisy boxes that tracks begin with in training
        "detector": "deformable",  # or dense, for small runs; or none: true boxes stand in
        "detector_level": 2,  # of 'dense': stride 8, 16, 32 for 0, 1, 2
        "queries": 500,
        "classes": 20,
        "class_offset": 1,  # index of the tracked class
        "points": 4,  # places that a head looks at, a level
        "encoder_layers": 6,
        "detector_layers": 6,
        "offset_norm": "hw",  # as all published weights; 'wh' is Deformable DETR's
        "dropout": 0.1,
        "giou_fallback": "sample",  # swapped corners: one box's GIoU term is 1; 'batch': all boxes' (released)
        "zero_grad_updates": False,  # as released: both tasks update every parameter and all batch statistics
    }
    c.data = {
        "root": "",  # folder with a folder for each set, under its published name
        "sot_train": ("coco", "lasot", "trackingnet", "got10k"),  # sets of single objects, drawn from equally often
        "sot_test": "lasot",  # '': none
        "mot_train": ("mot17",),
        "mot_test": "mot17",
        "mot_part": "half",  # of MOT16, MOT17, MOT20: train and test on halves of each sequence; or 'all'
        "world": {},  # fields of the rendered tracking world: make it in root first
        "frames": 3,  # T of a single-object sample
        "crop_size": 352,
        "crop_factor": 6.0,  # side of the crop over the root of the box's area
        "centre_jitter": 5.5,
        "scale_jitter": 0.5,
        "max_gap": 200,  # frames between those of a sample
        "grey": 0.05,  # probability
        "brightness": 0.2,  # largest relative change
        "hflip": 0.5,
        "mot_size": (800, 1344),  # height and width that a pair is padded to
        "mot_buckets": (),  # more such sizes: each takes the short sides that fit into it, and compiles once
        "mot_short": (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),  # drawn for each pair
        "mot_longest": 1333,
        "mot_crop": (800, 1000, 1200),  # short sides of half of the pairs, which are cropped first; (): none
        "mot_hflip": 0.5,
        "min_area": 0.25,  # share of a box that a crop must leave
        "min_visibility": 0.25,
        "max_objects": 128,  # M of a picture
        "samples": 60000,  # of a pass over the training data, each drawn anew
        "sot_batch_size": 64,
        "mot_batch_size": 16,
        "sot_eval_rows": 16,  # sequences that are followed at a time
        "mot_eval_rows": 1,
    }
    c.eval.sot = {
        "coords": "exact",  # 'official': the released mapping between crop and frame, for its weights
        "guard": 0.0,  # a score below keeps the place; 0: off
        "exclude_invalid": False,  # leave frames without target out of the scores
    }
    c.eval.mot = {
        "tracker": "transformer",  # or released, byte
        "beside": (),  # other trackers that are scored on the same detections: released, byte
        "detections": "own",  # 'public': those of the set's det.txt; 'truth': the true boxes
        "max_tracks": 100,  # N
        "max_detections": 100,
        "short": 800,  # side of the frames
        "longest": 1440,
        "detection": 0.4,  # least score of a detection
        "birth": 0.4,  # of 'transformer': least score of a new object
        "match": 0.0,  # limit of the first assignment; 0: the tracker's own
        "max_age": 0,  # frames that an object may be gone; 0: the tracker's own
        "byte_end_frame_bug": False,  # as released: lost tracks die early from frame 31 on
        "preprocess": True,  # MOTChallenge's rule of ignored classes
    }
    return c


SETS = ("coco", "lasot", "trackingnet", "got10k", "otb100", "crowdhuman", "mot16", "mot17", "mot20")
SOT_SETS = ("coco", "lasot", "trackingnet", "got10k", "otb100")
MOT_SETS = ("crowdhuman", "mot16", "mot17", "mot20")
SPRITES = "jaxvl.data.synthetic.sprites"
PROBABILITIES = ("grey", "hflip", "mot_hflip", "min_area", "min_visibility")
FLAGS = (
    "self_attention", "output_score", "target_decoder", "proposal_decoder", "corner_centres", "zero_grad_updates",
)  # fmt: skip
FIELDS = {
    "precision.scan_layers": only(False, "no layers in it become a loop"),
    "model.mode": choice(of="jaxvl.methods.utt.method:MODES"),
    "model.depth": whole(18, 152),
    **{f"model.{n}": whole(1, 2**16) for n in ("width", "dim", "heads", "ff_dim", "queries", "classes", "points")},
    "model.blocks": many(whole(1, 1024), 0, 4),
    **{f"model.{n}": whole(1, 64) for n in ("iterations", "pool", "object_size", "decoder_layers", "detector_layers")},
    "model.box_layers": whole(0, 64),
    "model.encoder_layers": whole(0, 64),
    "model.interaction": choice(of="jaxvl.methods.utt.layers:INTERACTIONS"),
    **{f"model.{n}": flag() for n in FLAGS},
    "model.expand_scale": real(above=0),
    "model.proposal_min_side": real(0),
    "model.track_level": whole(0, 2),
    "model.mot_levels": choice(of="jaxvl.methods.utt.model:LEVELS"),
    "model.mot_target_levels": choice(of="jaxvl.methods.utt.model:LEVELS"),
    "model.mot_target_at": choice("template", "proposal"),
    "model.mot_target_grad": choice("proj", "none"),
    "model.noise_min_iou": real(0, 1),
    "model.detector": choice(of="jaxvl.methods.utt.model:DETECTORS"),
    "model.detector_level": whole(0, 2),
    "model.class_offset": whole(0, 2**16),
    "model.offset_norm": choice(of="jaxvl.ops.deformable:NORMS"),
    "model.dropout": real(0, below=1),
    "model.giou_fallback": choice(of="jaxvl.methods.utt.losses:FALLBACKS"),
    "data.root": folder(),
    "data.sot_train": many(choice(*SOT_SETS)),
    "data.sot_test": choice(*SOT_SETS[1:], ""),
    "data.mot_train": many(choice(*MOT_SETS)),
    "data.mot_test": choice(*MOT_SETS[1:], ""),
    "data.mot_part": choice("half", "all"),
    "data.frames": whole(1, 64),
    "data.crop_size": whole(32, 4096),
    "data.crop_factor": real(above=1),
    "data.centre_jitter": real(0),
    "data.scale_jitter": real(0),
    "data.max_gap": whole(1),
    "data.brightness": real(0, 1),
    **{f"data.{n}": real(0, 1) for n in PROBABILITIES},
    "data.mot_size": many(whole(32, 8192), 2, 2),
    "data.mot_buckets": many(many(whole(32, 8192), 2, 2)),
    "data.mot_short": many(whole(16, 8192), 1),
    "data.mot_longest": whole(16, 8192),
    "data.mot_crop": many(whole(16, 8192)),
    "data.max_objects": whole(1, 4096),
    "data.samples": whole(1),
    **{f"data.{n}": whole(1, 2**20) for n in ("sot_batch_size", "mot_batch_size", "sot_eval_rows", "mot_eval_rows")},
    "eval.sot.coords": choice(of="jaxvl.methods.utt.single:COORDS"),
    "eval.sot.guard": real(0, 1),
    "eval.sot.exclude_invalid": flag(),
    "eval.mot.tracker": choice(of="jaxvl.methods.utt.association:TRACKERS"),
    "eval.mot.beside": many(choice("released", "byte")),
    "eval.mot.detections": choice("own", "public", "truth"),
    "eval.mot.max_tracks": whole(1, 4096),
    "eval.mot.max_detections": whole(1, 4096),
    "eval.mot.short": whole(16, 8192),
    "eval.mot.longest": whole(16, 16384),
    "eval.mot.detection": real(0, 1),
    "eval.mot.birth": real(0, 1),
    "eval.mot.match": real(0, 2),
    "eval.mot.max_age": whole(0),
    "eval.mot.byte_end_frame_bug": flag(),
    "eval.mot.preprocess": flag(),
    **only_if_given(
        {
            "data.world.seed": whole(0),
            **{f"data.world.num_{split}": whole(0) for split in ("train", "test")},
            "data.world.image_size": whole(32, 4096),
            "data.world.fps": whole(1, 1000),
            "data.world.frames": whole(10),
            "data.world.objects": many(whole(1), 2, 2),
            "data.world.alike": real(0, 1),
            "data.world.absent": real(0, 1),
            "data.world.speed": interval(0, 1),
            "data.world.sizes": interval(0.02, 0.8),
            "data.world.nouns": many(choice(of=f"{SPRITES}.shapes:NOUNS"), 1),
        }
    ),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""


def released(steps: int = 400_000) -> ConfigDict:
    """The recipe of `configs/utt/utt.yaml` (section 5 of the specification), with the defaults above: AdamW, betas .9
    and .98, decay .01 on everything but the norm behind the target decoder, 1e-4 reached in 2,000 updates of the
    cosine."""
    c = base()
    c.train.update({"steps": steps, "log_every": 50, "checkpoint_every": 10_000, "clip_norm": 1.0})
    c.optim.main = configs.optimizer(
        name="adamw", lr=1e-4, schedule="cosine_unshifted", warmup=2000, floor=1e-6, end_lr=1e-6, b1=0.9, b2=0.98,
        eps=1e-8, weight_decay=0.01, no_decay="^sot_decoder/norm/",
    )  # fmt: skip
    c.precision.compute = "bfloat16"
    c.precision.remat = "full"  # else no slice of 16 GiB a chip holds it, since 16 pairs go to 16 chips at most
    c.init.required = True
    return c


def paper() -> ConfigDict:
    """What the paper's text says: 800,000 updates, decay 5e-3, 1e-4 to 1e-5, MOT16 and CrowdHuman."""
    c = released(800_000)
    c.optim.main.update({"weight_decay": 5e-3, "end_lr": 1e-5})
    c.data.mot_train = ("mot16", "crowdhuman")
    c.data.mot_test = "mot16"
    return c


PARITY: dict[str, Any] = {
    "mot_target_levels": "pyramid",
    "mot_target_at": "proposal",
    "mot_target_grad": "none",
    "noise_min_iou": 0.05,
    "giou_fallback": "batch",
    "zero_grad_updates": True,
}
"""What the released code computes, slips included; the other defaults are its own."""

ROWS: dict[str, dict[str, Any]] = {
    "unified": {},
    "sot_only": {"mode": "sot"},
    "mot_only": {"mode": "mot"},
    "no_target_no_proposal": {"target_decoder": False, "proposal_decoder": False},
    "target_only": {"proposal_decoder": False},
    "proposal_only": {"target_decoder": False},
    "cross_attention": {"interaction": "cross_attention", "self_attention": False},
    "correlation_alone": {"self_attention": False},
    "pool_1": {"pool": 1},
    "pool_14": {"pool": 14},
    "iterations_1": {"iterations": 1},
}
"""What a row changes in `config.model`: the paper's ablations (tables 3 to 7)."""


def with_row(c: ConfigDict, row: str) -> ConfigDict:
    """The config with the fields of one of `ROWS` replaced, and tested on the task that it trains."""
    c.model.update(ROWS[row])
    if c.model.mode == "sot":
        c.precision.remat = "none"
        c.data.update({"mot_train": (), "mot_test": ""})
    if c.model.mode == "mot":
        c.data.update({"sot_train": (), "sot_test": ""})
    return c
