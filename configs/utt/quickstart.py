"""UTT on drawn shapes that move, on two CPU cores, in minutes: both tasks with one set of weights, from real files.

    jaxvl train --config configs/utt/quickstart.py --workdir runs/utt

Renders 40 training and 8 test videos of 64x64 pixels in the layouts of LaSOT and MOT17, trains both tasks in turns, and
ends with both tables: one shape followed from its first box, beside a box that stays where it was, and all shapes found
and linked, by the paper's tracker and beside it by `released` and `byte` on the same detections. At this size `byte` is
the best of the three (docs/methods/utt.md says why). `python -m benchmarks.claims.quickstart utt` measures it.
"""

from jaxvl.core import config as configs
from jaxvl.methods.utt import recipe


def get_config():
    c = recipe.base()
    c.train.update({"steps": 1600, "log_every": 100, "checkpoint_every": 400, "clip_norm": 1.0})
    c.optim.main = configs.optimizer(name="adamw", lr=2e-3, warmup=0.05, b2=0.98, weight_decay=0.01)
    c.model.update(
        {
            **{"depth": 18, "blocks": (1, 1), "width": 16, "dim": 64, "heads": 4, "ff_dim": 128, "dropout": 0.0},
            **{"iterations": 3, "pool": 5, "box_layers": 1, "decoder_layers": 1, "track_level": 0},
            **{"corner_centres": True, "proposal_min_side": 4.0},
            **{"detector": "dense", "detector_level": 0, "detector_layers": 2, "classes": 1, "class_offset": 0},
        }
    )
    c.data.update(
        {
            **{"sot_train": ("lasot",), "mot_train": ("mot17",), "mot_part": "all", "samples": 2000},
            **{"frames": 2, "crop_size": 64, "crop_factor": 4.0, "centre_jitter": 2.0, "scale_jitter": 0.25},
            **{"max_gap": 5, "mot_size": (64, 64), "mot_short": (64,), "mot_longest": 64, "mot_crop": ()},
            **{"max_objects": 8, "sot_batch_size": 16, "mot_batch_size": 16, "sot_eval_rows": 8, "mot_eval_rows": 8},
        }
    )
    c.data.world = {"num_train": 40, "num_test": 8, "frames": 60, "image_size": 64, "objects": (2, 4)}
    c.eval.mot.update({"short": 64, "longest": 64, "max_tracks": 12, "max_detections": 16})
    c.eval.mot.beside = ("released", "byte")
    c.eval.split = "test"
    return c
