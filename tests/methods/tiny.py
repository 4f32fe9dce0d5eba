"""The tiny config of every registered method, and what its contract tests need to know about it.

A new method joins `test_contract.py` with one entry of `TINY`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.methods.afe_cnn import recipe as afe_cnn_recipe
from jaxvl.methods.mist import recipe
from jaxvl.methods.posegu import recipe as posegu_recipe
from jaxvl.methods.utt import recipe as utt_recipe
from tests import tiny

Batch = Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A method small enough to be compiled a dozen times in a minute.

    config: float32 matmuls of highest precision, eight rows a batch (eight simulated devices), constant rate.
    batch: `seed -> {stream: fields}`, a global batch of the training streams with values like real ones.
    predict: `seed -> [{stream: fields}, ...]`, what `Method.predict` is called with, one call each.
    zero_gradient: regex of parameters whose gradient vanishes by construction, and why (in a comment); or one for each
        objective.
    variants: overrides under which `trains` is checked once more (frozen parts).
    overfit: (steps, loss): one batch, repeated, is learned to below this loss in so many updates.
    terms: of the loss, as `jaxvl.core.precision.loss_term` names them in profiles.
    meshes: on which of `MESHES` eight devices are compared with one: the mixed one, which shards batch and parameters
        alike, and `tensor` where there are partition rules for it. The toys of `tests/core` shard one of both, too.
    only: mesh -> the one objective whose turns are trained on it; on the others, all are. Where objectives share their
        network, one mesh shows the placing of the one, and another that of the other.
    """

    config: ConfigDict
    batch: Callable[[int], Batch]
    predict: Callable[[int], list[Batch]]
    zero_gradient: str | Mapping[str, str]
    overfit: tuple[int, float]
    variants: tuple[tuple[str, ...], ...] = ()
    terms: tuple[str, ...] = ()
    meshes: tuple[str, ...] = ("mixed",)
    only: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def vanishing(self, objective: str) -> str:
        """`zero_gradient` of one objective."""
        return self.zero_gradient if isinstance(self.zero_gradient, str) else self.zero_gradient[objective]


MESHES = {
    "mixed": {"data": 2, "fsdp": 4, "tensor": 1},
    "tensor": {"data": 4, "fsdp": 1, "tensor": 2},
}


def centerclip() -> Tiny:
    """4 frames of 2x2 patches, reduced after the first of two blocks."""
    config = tiny.quickstart(
        "precision.matmul=highest", "model.vocab_size=64", "train.steps=100", "train.clip_norm=1.0",
        "optim.main.schedule=constant", "optim.main.warmup=0.0", "optim.main.lr=1e-3", "mesh.data=-1",
    )  # fmt: skip
    rows, frames, size, words = 8, config.data.frames, config.model.image_size, config.data.max_words

    def clips(rng):
        # a colour a video, a grey level a frame, and noise: videos differ, and so do their frames and patches
        colour, level = rng.integers(40, 216, (rows, 1, 1, 1, 3)), rng.integers(-30, 30, (rows, frames, 1, 1, 1))
        noise = rng.integers(-10, 11, (rows, frames, size, size, 3))
        mask = np.arange(frames) < rng.integers(2, frames + 1, (rows, 1))
        return {"frames": (colour + level + noise).clip(0, 255).astype(np.uint8), "mask": mask}

    def ids(rng):
        out = np.zeros((rows, words), np.int32)
        for row in out:
            n = rng.integers(3, words - 2)
            row[: n + 2] = [62, *rng.integers(1, 62, n), 63]
        return out

    def batch(seed):
        rng = np.random.default_rng(seed)
        return {"train": {**clips(rng), "ids": ids(rng), "video_index": np.arange(rows, dtype=np.int32)}}

    def predict(seed):
        rng = np.random.default_rng(seed)
        return [{"video": clips(rng)}, {"text": {"ids": ids(rng)}}]

    return Tiny(
        config=config,
        batch=batch,
        predict=predict,
        # a constant added to every key leaves the softmax as it is
        zero_gradient=r"attn/key/bias$",
        overfit=(60, 0.2),
        terms=("contrast",),
        variants=(("model.freeze_layer_num=1",),),
        meshes=("mixed", "tensor"),
    )


def drdr() -> Tiny:
    """Stripes of four directions, thick in the source and thin in the target; every term of the loss is on."""
    config = configs.load(
        tiny.ROOT / "configs" / "drdr" / "quickstart.py",
        ("precision.matmul=highest", "train.steps=100", "optim.main.schedule=constant", "optim.main.lr=1e-3",
         "mesh.data=-1", "model.classes=4", "model.channels=(4,8)", "model.bottleneck_dim=8", "model.burn_in=0.0",
         "model.weights.transport=0.01", "model.weights.consensus=0.1", "model.ot.threshold=1e-5",
         "data.image_size=8", "data.batch_size=8", "data.eval_batch_size=8"),
    )  # fmt: skip
    rows = np.arange(8) % 4

    def images(rng, wide):
        y, x = np.mgrid[:8, :8]
        along = np.stack([x, y, x + y, x - y])[rows] + rng.integers(0, 6, (8, 1, 1))
        clean = np.where(along % (6 if wide else 4) < 2 + wide, 220, 30)
        return (clean + rng.integers(-25, 26, clean.shape)).astype(np.uint8)[..., None]

    def batch(seed):
        rng = np.random.default_rng(seed)
        source = {"images": images(rng, True), "label": rows.astype(np.int32)}
        return {"source": source, "target": {"images": images(rng, False)}}

    def predict(seed):
        return [{"optdigits": {"images": images(np.random.default_rng(seed), False)}}]

    return Tiny(
        config=config,
        batch=batch,
        predict=predict,
        zero_gradient="",
        overfit=(150, 0.5),
        terms=("classification", "translation", "distance", "angular", "transport", "consensus"),
        variants=(("model.freeze_classifier=true",),),
    )


def slimclr() -> Tiny:
    """MoCo v3 at two widths of a net of two convolutions on 8x8 pictures; the slow start lasts longer than the tests.
    (MoCo v2 starts at its lowest loss: queries equal their keys, and the queue is noise.)"""
    config = tiny.load(
        "slimclr/quickstart.py",
        "precision.matmul=highest", "train.steps=1000", "optim.main.schedule=constant", "optim.main.warmup=0.0",
        "optim.main.lr=0.05", "mesh.data=-1", "model.framework=mocov3", "model.head=mocov3_slim",
        "model.conv_channels=(8,16)", "model.strides=(1,2)", "model.widths=(1.0,0.5)", "model.hidden=16",
        "model.dim=8", "model.momentum=0.9", "model.init_sd=0.5", "model.distill_logits=scaled",
        "model.analyse_every=0", "data.image_size=8", "data.eval_resize=8", "data.batch_size=8",
        "data.eval_batch_size=8",
    )  # fmt: skip
    rows, size = 8, 8

    def pictures(rng, base):
        return (base + rng.integers(-20, 21, (rows, size, size, 3))).clip(0, 255).astype(np.uint8)

    def coarse(rng):
        return rng.integers(40, 216, (rows, 2, 2, 3)).repeat(size // 2, 1).repeat(size // 2, 2)

    def batch(seed):
        rng = np.random.default_rng(seed)
        base = coarse(rng)
        return {"train": {"view_a": pictures(rng, base), "view_b": pictures(rng, base)}}

    def predict(seed):
        rng = np.random.default_rng(seed)
        return [{"query": {"image": pictures(rng, coarse(rng))}}]

    return Tiny(
        config=config,
        batch=batch,
        predict=predict,
        zero_gradient="",
        overfit=(60, 0.8),
        terms=("contrast", "distill"),
    )


def mist() -> Tiny:
    """Four segments of two frames of four patches; three options a question. The evidence is one patch of one segment,
    in the direction of the question; its attribute is what the right option names."""
    config = recipe.base()
    config.lock()
    configs.apply(
        config,
        ("precision.matmul=highest", "train.steps=100", "train.clip_norm=12.0", "optim.main.name=adam",
         "optim.main.eps=1e-4", "optim.main.schedule=constant", "optim.main.lr=3e-3", "mesh.data=-1",
         "model.feature_dim=12", "model.query_dim=12", "model.patches=4", "model.d_model=128",
         "model.heads=2", "model.ff_dim=32", "model.blocks=1", "model.num_layers=1",
         "model.answer_pool=mean", "model.readout=mean",
         "model.num_segments=4", "model.topk=2", "model.topj=3", "model.dropout=0.0",
         "model.num_answers=0", "model.num_options=3", "model.text.preset=tiny", "model.text.vocab_size=40",
         "model.text.width=128", "model.text.layers=1", "model.text.heads=2", "model.text.ff_dim=32",
         "model.text.max_positions=12", "model.text.dropout=0.0", "data.frames=8", "data.question_words=6",
         "data.answer_words=9", "data.batch_size=8", "data.eval_batch_size=8", "data.feature_dtype=float32"),
    )  # fmt: skip
    rows, nouns, words = 8, np.random.default_rng(99).normal(size=(8, 12)), config.data.answer_words

    def questions(rng):
        noun, place, label = rng.permutation(8), rng.integers(0, 4, rows), np.arange(rows) % 3
        patches = 0.3 * rng.normal(size=(rows, 8, 4, 12))
        for i in range(rows):
            patches[i, 2 * place[i], rng.integers(4)] += 2 * nouns[noun[i]]
        question = np.zeros((rows, 6), np.int32)
        question[:, :4] = np.stack([np.full(rows, 38), noun + 1, 20 + label, np.full(rows, 39)], 1)
        options = np.zeros((rows, 3, words), np.int32)
        options[:, :, :4] = question[:, None, :4]
        options[:, :, 4] = rng.permuted(np.tile(np.arange(10, 13), (rows, 1)), axis=1)
        options[:, :, 5] = 39
        batch = {"frames": patches.mean(2) * 3, "patches": patches, "question_vec": nouns[noun]}
        batch = {k: v.astype(np.float32) for k, v in batch.items()}
        ids = {"question": question, "options": options, "label": label, "example": rng.integers(0, 2**31, rows)}
        return {"qa": {**batch, **{k: v.astype(np.int32) for k, v in ids.items()}}}

    return Tiny(
        config=config,
        batch=lambda seed: questions(np.random.default_rng(seed)),
        predict=lambda seed: [questions(np.random.default_rng(seed))],
        # a constant added to every key leaves a softmax as it is, of attention and of the selectors; a batch norm takes
        # what is added before it away; one vector added to all options leaves the loss as it is
        zero_gradient=r"attn/key/bias$|_select/key_norm/bias$|encode_vid/pos\d/bias$|answer_(proj|bert/layer_0/ffn_norm)/bias$",
        overfit=(100, 0.1),
        terms=("answer",),
        variants=(),
        meshes=("mixed", "tensor"),
    )


def afe_cnn() -> Tiny:
    """Eight frames of sixteen joints; which of four joints swings is the class. Three clips show a second body. Rate
    over epsilon is 1, as for UTT."""
    config = afe_cnn_recipe.base()
    config.lock()
    configs.apply(
        config,
        ("precision.matmul=highest", "train.steps=100", "optim.main.name=adam", "optim.main.eps=1e-3",
         "optim.main.schedule=constant", "optim.main.lr=1e-3", "mesh.data=-1", "model.skeleton=humanoid16",
         "model.classes=4", "model.width=4", "model.dropout=0.0", "model.kje_hidden=8", "model.kfe_hidden=4",
         "data.frames=8", "data.batch_size=8", "data.eval_batch_size=8"),
    )  # fmt: skip
    rows = 8

    def clips(rng):
        label = np.arange(rows) % 4
        x = rng.normal(size=(rows, 2, 1, 16, 3)) + 0.05 * rng.normal(size=(rows, 2, 8, 16, 3))
        swing = np.sin(np.arange(8) + rng.uniform(0, 6, (rows, 2, 1)))
        x[np.arange(rows), :, :, 4 * label, 1] += swing
        present = np.ones((rows, 2), bool)
        present[3:, 1] = False
        x = np.where(present[:, :, None, None, None], x, 0).astype(np.float32)
        return {"x": x, "present": present, "label": label.astype(np.int32)}

    def predict(seed):
        clip = clips(np.random.default_rng(seed))
        return [{"clips": {name: clip[name] for name in ("x", "present")}}]

    return Tiny(
        config=config,
        batch=lambda seed: {"clips": clips(np.random.default_rng(seed))},
        predict=predict,
        # the last layers of both gates start at zero, so that nothing reaches what is in front of them; one factor on
        # all frames is taken away by the stem's batch norm
        zero_gradient=r"kje/fc1/|kfe/conv1/|kfe/conv2/bias$",
        overfit=(60, 0.5),
        terms=("classification",),
    )


def posegu() -> Tiny:
    """Eight real and eight generated poses a batch, these from a pool of 64 around somebody who stands before four
    cameras; real ones are the same person with their joints moved. Rate over epsilon is 1, as for UTT."""
    config = posegu_recipe.base()
    config.lock()
    configs.apply(
        config,
        ("precision.matmul=highest", "train.steps=100", "optim.main.name=adam", "optim.main.eps=1e-2",
         "optim.main.schedule=constant", "optim.main.lr=1e-2", "mesh.data=-1", "model.width=16", "model.stages=1",
         "model.dropout=0.0", "model.gen.pool_size=64", "model.gen.oversample=10", "data.seed_capacity=4",
         "data.batch_size=16"),
    )  # fmt: skip
    rows = 8

    def pairs(rng):
        from jaxvl.methods.posegu.method import somebody

        x = np.asarray(somebody(1).world) - [0, 0, 1] + 0.1 * rng.normal(size=(rows, 16, 3))
        x = x @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) + [0, 0, 4]
        return {"x2d": (2.29 * x[..., :2] / x[..., 2:]).astype(np.float32), "x3d": x.astype(np.float32)}

    def predict(seed):
        return [{"h36m": {"x2d": pairs(np.random.default_rng(seed))["x2d"]}}]

    return Tiny(
        config=config,
        batch=lambda seed: {"poses": pairs(np.random.default_rng(seed))},
        predict=predict,
        # a constant in front of a norm of the batch is taken away by it
        zero_gradient=r"^in/bias$|dense\d/bias$",
        overfit=(60, 0.1),
        terms=("pose", "risk"),
    )


def utt() -> Tiny:
    """Crops and pictures of 32x32 with bright rectangles; one iteration of the target transformer on maps of 4x4. Rate
    over epsilon is 1: what rounding makes of a gradient near 0, Adam multiplies by it."""
    config = utt_recipe.base()
    config.lock()
    configs.apply(
        config,
        ("precision.matmul=highest", "train.steps=100", "train.clip_norm=1.0", "optim.main.schedule=constant",
         "optim.main.lr=1e-3", "optim.main.eps=1e-3", "mesh.data=-1", "model.depth=18", "model.blocks=(1,1)",
         "model.width=8", "model.dim=32", "model.heads=2", "model.ff_dim=16", "model.iterations=1",
         "model.pool=3", "model.box_layers=0", "model.decoder_layers=1", "model.proposal_min_side=4.0",
         "model.track_level=0", "model.detector=dense",
         "model.detector_level=0", "model.detector_layers=1", "model.classes=1", "model.class_offset=0",
         "model.dropout=0.0", "data.frames=2", "data.crop_size=32", "data.mot_size=(32,32)", "data.max_objects=3",
         "data.sot_batch_size=8", "data.mot_batch_size=8", "eval.mot.max_tracks=4", "eval.mot.max_detections=6"),
    )  # fmt: skip
    rows = 8

    def pictures(rng, colours):
        """`[rows, 32, 32, 3]` with a rectangle of each colour `[rows, n, 3]`, one below the other, and their boxes."""
        n = colours.shape[1]
        images = rng.integers(40, 90, (rows, 32, 32, 3)).astype(np.uint8)
        low = np.stack([rng.integers(2, 14, (rows, n)), rng.integers(0, 6, (rows, n)) + 16 * np.arange(n)], -1)
        boxes = np.concatenate([low, low + rng.integers(8, 11, (rows, n, 2))], -1)
        for image, places, paints in zip(images, boxes, colours):
            for (x1, y1, x2, y2), paint in zip(places, paints):
                image[y1:y2, x1:x2] = paint
        return images, boxes.astype(np.float32)

    def sot(rng):
        colours = rng.integers(120, 256, (rows, 1, 3))
        (a, box_a), (b, box_b) = pictures(rng, colours), pictures(rng, colours)
        pad = np.zeros((rows, 2, 32, 32), bool)
        pad[::2, :, :5] = True
        boxes = np.stack([box_a[:, 0], box_b[:, 0]], 1)
        return {"images": np.stack([a, b], 1), "pad": pad, "boxes": boxes, "ref": np.arange(rows, dtype=np.int32) % 2}

    def mot(rng):
        colours, out = rng.integers(120, 256, (rows, 2, 3)), {}
        for frame in ("template", "search"):
            image, boxes = pictures(rng, colours)
            valid = np.tile([True, True, False], (rows, 1))
            out[f"{frame}_image"], out[f"{frame}_pad"] = image, np.zeros((rows, 32, 32), bool)
            out[f"{frame}_boxes"] = np.concatenate([boxes, np.zeros((rows, 1, 4), np.float32)], 1)
            out[f"{frame}_valid"], out[f"{frame}_size"] = valid, np.full((rows, 2), 32, np.float32)
            out[f"{frame}_track_id"] = np.tile(np.array([7, 3, 0], np.int32), (rows, 1))
        return out

    def batch(seed):
        rng = np.random.default_rng(seed)
        return {"sot": sot(rng), "mot": mot(rng)}

    def predict(seed):
        rng = np.random.default_rng(seed)
        one, every = sot(rng), mot(rng)
        vectors = rng.normal(size=(rows, 4, 32)).astype(np.float32)
        crop = {"crop": one["images"][:, 0], "pad": one["pad"][:, 0], "box": one["boxes"][:, 0]}
        picture = {"image": every["search_image"], "pad": every["search_pad"], "size": every["search_size"]}
        tracks = {"boxes": np.tile(every["search_boxes"][:, :1], (1, 4, 1)), "vectors": vectors}
        tracks["valid"] = np.arange(4) < rng.integers(0, 5, (rows, 1))
        return [{"sot": {**crop, "vector": vectors[:, 0]}}, {"mot": {**picture, **tracks}}]

    # a batch norm takes what is added before it away, a softmax what is added to all its logits; one target has nobody
    # to attend to but itself
    always = r"(proj_\w+/level\d|corner/conv\d)/conv/bias$|attn/key/bias$|corner/conv5/bias$"
    return Tiny(
        config=config,
        batch=batch,
        predict=predict,
        meshes=("mixed", "tensor"),
        only={"mixed": "mot", "tensor": "sot"},
        zero_gradient={"sot": always + r"|self_attn/(query|key)/", "mot": always},
        overfit=(140, 3.5),
        terms=("track", "detection"),
    )


TINY: dict[str, Callable[[], Tiny]] = {
    "afe_cnn": afe_cnn,
    "centerclip": centerclip,
    "drdr": drdr,
    "mist": mist,
    "posegu": posegu,
    "slimclr": slimclr,
    "utt": utt,
}
