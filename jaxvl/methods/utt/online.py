"""What the network does in one frame of a video, of one object or of all: `Method.predict`, compiled once a shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxvl.core.method import Evaluator
from jaxvl.methods.utt.model import PYRAMID, UTT, UTTConfig, normalized
from jaxvl.ops import boxes as box

SEEN = 0.1
"""Least probability of the tracked class of a detection."""


def predictor(model: UTT, config: ConfigDict) -> Callable:
    """`predict(variables, batch)`: a stream with `crop` is of one object (`sot_step`), one with `image` of all
    (`mot_step`)."""

    def predict(variables, batch):
        out: dict[str, Any] = {}
        for fields in batch.values():
            if "crop" in fields:
                out |= nn.apply(sot_step, model)(variables, fields)
            else:
                out |= nn.apply(mot_step, model)(variables, fields, config)
        return out

    return predict


def sot_fields(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """What `sot_step` reads, of one sequence."""
    s, shape = config.data.crop_size, jax.ShapeDtypeStruct
    return {
        "crop": shape((s, s, 3), jnp.uint8),
        "pad": shape((s, s), jnp.bool_),
        "box": shape((4,), jnp.float32),
        "vector": shape((config.model.dim,), jnp.float32),
    }


def sot_step(module: UTT, b: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """One frame of one object.

    crop `[B, S, S, 3]` uint8, pad `[B, S, S]`, box `[B, 4]` corners in the crop (the last place; in the first frame
    that of the target), vector `[B, C]` of the target -> `box [B, 4]`, where it is now, `proposal [B, 4]`, `score [B]`
    (1 for a network without), and `described [B, C]`, the vector of what is at the given box, for the first frame.
    """
    taps = module.features(normalized(b["crop"]), False)
    (cells,) = module.maps(taps, [module.config.track_level])
    at = b["box"][:, None]
    out = module.sot(cells, b["pad"], b["vector"][:, None], at)
    found = out["boxes"][:, :, 0]
    score = jax.nn.sigmoid(out["scores"][-1, :, 0]) if "scores" in out else jnp.ones(len(at))
    described = module.vectors([cells], at)[:, 0]
    return {"box": found[-1], "proposal": found[0], "score": score, "described": described}


def mot_fields(config: ConfigDict, size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
    """What `mot_step` reads, of one sequence with pictures of `size`."""
    m, (h, w), shape = config.eval.mot, size, jax.ShapeDtypeStruct
    fields = {
        "image": shape((h, w, 3), jnp.uint8),
        "pad": shape((h, w), jnp.bool_),
        "size": shape((2,), jnp.float32),
        "boxes": shape((m.max_tracks, 4), jnp.float32),
        "vectors": shape((m.max_tracks, config.model.dim), jnp.float32),
        "valid": shape((m.max_tracks,), jnp.bool_),
    }
    if m.detections != "own":
        fields["given"] = shape((m.max_detections, 4), jnp.float32)
    return fields


def mot_step(module: UTT, b: Mapping[str, jax.Array], config: ConfigDict) -> dict[str, jax.Array]:
    """One frame of all objects.

    image `[B, H, W, 3]` uint8, pad `[B, H, W]`, size `[B, 2]` without padding, tracks: boxes `[B, N, 4]` corners in
    pixels, vectors `[B, N, C]`, valid `[B, N]`. With `given` `[B, D, 4]` these are the detections, else the network's
    own. Returns `tracks [B, N, 4]`, where the target transformer moves them, `track_scores [B, N]` if the network has
    them, and D detections: `found [B, D, 4]`, `scores [B, D]` (0: none), `described [B, D, C]`.
    """
    c, m = module.config, config.eval.mot
    taps = module.features(normalized(b["image"], b["pad"]), False)
    levels = {"single": (c.track_level,), "pyramid": PYRAMID}
    wanted = {*levels[c.mot_levels], *levels[c.mot_target_levels]}
    maps = dict(zip(sorted(wanted), module.maps(taps, sorted(wanted))))
    if "given" in b:
        found, scores = b["given"], jnp.ones(b["given"].shape[:2])
    else:
        found, scores = detections(module, taps, b["pad"], m.max_detections, config.model.class_offset)
        found = found * jnp.tile(b["size"], 2)[:, ::-1][:, None]
    described = module.vectors([maps[i] for i in levels[c.mot_target_levels]], found)
    mask = b["valid"].at[:, 0].set(True)  # a row of keys that are all masked has no softmax
    out = module.track([maps[i] for i in levels[c.mot_levels]], b["vectors"], b["boxes"], mask)
    extra = {"track_scores": jax.nn.sigmoid(out["scores"][-1])} if "scores" in out else {}
    return {"tracks": out["boxes"][-1], "found": found, "scores": scores, "described": described, **extra}


def detections(module: UTT, taps, pad: jax.Array, count: int, index: int) -> tuple[jax.Array, jax.Array]:
    """The `count` best detections in the order of their queries: corners `[B, D, 4]` in shares, scores `[B, D]`: the
    largest class probability where that of class `index` is above `SEEN`, else 0."""
    found = module.detect(taps, pad)
    if not found:
        return jnp.zeros((len(pad), count, 4)), jnp.zeros((len(pad), count))
    probability = jax.nn.sigmoid(found["logits"][-1])
    scores = jnp.where(probability[..., index] > SEEN, probability.max(-1), 0.0)
    place = jnp.sort(jax.lax.top_k(scores, min(count, scores.shape[1]))[1], -1)
    boxes = box.xyxy_from_cxcywh(jnp.take_along_axis(found["boxes"][-1], place[..., None], 1))
    scores = jnp.take_along_axis(scores, place, 1)
    short = count - scores.shape[1]
    return jnp.pad(boxes, ((0, 0), (0, short), (0, 0))), jnp.pad(scores, ((0, 0), (0, short)))


def predict_spec(config: ConfigDict) -> list[dict[str, dict[str, jax.ShapeDtypeStruct]]]:
    """What following gives to `predict`: crops of single objects, and pictures of videos of 1080 x 1920, as most of the
    published test videos are (each other shape compiles anew)."""
    from jaxvl.methods.utt.evaluators import seen_size

    d = config.data
    asked = {}
    if d.sot_test:
        asked["sot"] = d.sot_eval_rows, sot_fields(config)
    if d.mot_test:
        asked["mot"] = d.mot_eval_rows, mot_fields(config, seen_size(config, 1080, 1920))
    return [
        {stream: {k: jax.ShapeDtypeStruct((rows, *v.shape), v.dtype) for k, v in fields.items()}}
        for stream, (rows, fields) in asked.items()
    ]


def evaluators(config: ConfigDict, cfg: UTTConfig) -> dict[str, Evaluator]:
    """One for each task that `config.data` has test sequences of."""
    from jaxvl.methods.utt.evaluators import FollowAll, FollowOne

    del cfg
    found: dict[str, Evaluator] = {}
    if config.data.sot_test:
        found["sot"] = FollowOne(config)
    if config.data.mot_test:
        found["mot"] = FollowAll(config)
    return found
