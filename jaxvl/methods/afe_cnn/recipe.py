"""Config fields of AFE-CNN (reconstruction), its recipes and ablations, and the batch that data and model share.

One stream, `clips`, the same in training and in every split. Arrays without their batch axis:

- `x` float32 `[2, T, J, 3]`: joints of up to two bodies, normalised, resampled to T = `data.frames`, augmented; an
  absent body or frame is zeros
- `present` bool `[2]`: the body has a value that is not 0; at least one has
- `label` int32 `[]`

On the host, for evaluators: `_id` (the clip's name; the same for all test crops of a clip) and `_label`.

`Method.predict` gives `logits [B, K]`, `joint_gates [B, 2, J]` and `frame_gates [B, 2, T]`, float32; gates are 1 where
their module is switched off.

Nobody could read the method section of the paper for this: only its abstract. What the abstract says is kept, all
numbers are choices of the reconstruction, and each is a field here.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core.fields import choice, flag, folder, interval, many, real, text, whole


def base() -> ConfigDict:
    """Every field of the method with its default: NTU RGB+D's 60 classes by subject."""
    c = configs.base()
    c.method = "afe_cnn"
    c.model = {
        "skeleton": "ntu25",  # or utkinect20, humanoid16
        "classes": 60,
        "width": 64,  # channels of the stem; the last block has eight times as many
        "kje": True,  # key joints: a gate a joint
        "bve": True,  # bone vectors: their directions as channels
        "kfe": True,  # key frames: a gate a frame
        "te": True,  # temporal: differences over 1 and `te_span` frames as channels
        "te_span": 4,
        "gates": "relative",  # what the gates read: ratios to the clip's mean; or 'absolute', log speeds (rejected)
        "gate_range": 0.5,  # a gate is 1 + gate_range * tanh(.)
        "kje_hidden": 32,
        "kfe_hidden": 16,
        "kfe_size": 5,  # frames of its kernels; odd
        "dropout": 0.5,
        "label_smoothing": 0.1,
        "bn_momentum": 0.9,
        "bn_epsilon": 1e-5,
    }
    c.data = {
        "reader": "ntu",
        "root": "",
        "protocol": "xsub",
        "fold": 0,  # of protocol 'loso': which recording is tested
        "world": {},  # fields of the motion world: made instead of read
        "cache": "",  # folder of parsed files; '': WORKDIR/cache/skeletons
        "missing": (),  # lists of samples to leave out, below root or absolute; (): those found under root
        "track_gaps": "official",  # a body that vanishes and returns is glued together; or 'true_index'
        "processes": 0,  # that parse files; 0: one a core
        "frames": 64,  # T
        "view": True,  # turn each clip into the body's own axes
        "size": True,  # divide by the length of the torso
        "train_crop": (0.5, 1.0),  # share of the frames of a training window
        "least_frames": 64,  # of a training window, where the clip has as many
        "test_crop": 0.95,
        "test_crops": 1,  # 1: the centre; else so many random windows, their probabilities averaged
        "rotation": 0.3,  # largest angle about each axis in training, radians
        "repeats": 1,  # how often a pass over the training data reads each clip
        "pairs": (),  # pairs of classes, numbered from 1, that the report looks at
        "batch_size": 64,
        "eval_batch_size": 64,
    }
    return c


FIELDS = {
    "model.skeleton": choice(of="jaxvl.data.skeletons:SKELETONS"),
    "model.classes": whole(1, 2**20),
    "model.width": whole(1, 2**14),
    **{f"model.{name}": flag() for name in ("kje", "bve", "kfe", "te")},
    "model.te_span": whole(1, 2**16),
    "model.gates": choice("relative", "absolute"),
    "model.gate_range": real(0, 1),
    "model.kje_hidden": whole(1, 2**16),
    "model.kfe_hidden": whole(1, 2**16),
    "model.kfe_size": whole(1, 2**12),
    "model.dropout": real(0, below=1),
    "model.label_smoothing": real(0, below=1),
    "model.bn_momentum": real(0, below=1),
    "model.bn_epsilon": real(above=0),
    "data.reader": choice(of="jaxvl.methods.afe_cnn.data:READERS"),
    "data.root": folder(),
    "data.protocol": choice(of="jaxvl.methods.afe_cnn.data:PROTOCOLS"),
    "data.fold": whole(0, 2**20),
    "data.cache": folder(),
    "data.missing": many(text(empty=False)),
    "data.track_gaps": choice(of="jaxvl.data.readers.skeletons.ntu_bodies:TRACKING"),
    "data.processes": whole(0, 1024),
    "data.frames": whole(1, 2**16),
    "data.view": flag(),
    "data.size": flag(),
    "data.train_crop": interval(1e-6, 1.0),
    "data.least_frames": whole(1, 2**20),
    "data.test_crop": real(above=0, high=1),
    "data.test_crops": whole(1, 1024),
    "data.rotation": real(0),
    "data.repeats": whole(1, 2**16),
    "data.pairs": many(many(whole(1, 2**20), 2, 2)),
    "data.batch_size": whole(1, 2**24),
    "data.eval_batch_size": whole(1, 2**24),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""
