"""UTT wired to the contract: two objectives, one object (`sot`) and all objects (`mot`), in turns on one set of
weights.

Batches (B rows): stream `sot`: images `[B, T, S, S, 3]`, pad, boxes `[B, T, 4]`, ref `[B]`, the frame that shows the
target. Stream `mot`: two pictures, `template_*` and `search_*`, see `batch_spec`. Pairs of several sizes are as many
streams and objectives, see `buckets`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxvl.core import precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Method, Objective
from jaxvl.core.state import flatten, merge
from jaxvl.methods.utt import losses, online, proposals
from jaxvl.methods.utt.buckets import buckets, turns
from jaxvl.methods.utt.model import PYRAMID, UTT, UTTConfig, normalized
from jaxvl.nn.transformer import TENSOR_RULES
from jaxvl.ops import boxes as box

MODES = ("mix", "sot", "mot")
CHOICES = {
    "mode": MODES,
    "giou_fallback": losses.FALLBACKS,
    "mot_target_at": ("template", "proposal"),
    "mot_target_grad": ("proj", "none"),
}
PARTITION = (
    *TENSOR_RULES,
    (r"(ffn/linear1|interact/fc1)/kernel$", P(None, "tensor")),
    (r"(ffn/linear1|interact/fc1)/bias$", P("tensor")),
    (r"interact/norm1/(scale|bias)$", P("tensor")),
    (r"(ffn/linear2|interact/fc2)/kernel$", P("tensor", None)),
)
"""Heads and hidden units of all transformers over the `tensor` axis, and those of the correlation, which has more than
half of all parameters. The norm between its layers is of sharded units: their mean and variance are sums over the axis.
Nothing of the trunk and of deformable attention is."""
NOWHERE = (0.0, 0.0, 1.0, 1.0)
"""Box of a place without object."""


def model_config(config: ConfigDict) -> UTTConfig:
    """The network of `config.model`."""
    m = config.model
    for name, known in CHOICES.items():
        if m[name] not in known:
            raise InputError(f"config.model.{name}: {m[name]!r} is none of {', '.join(known)}")
    if not 0 <= m.class_offset < m.classes:
        raise InputError(f"config.model.class_offset: {m.class_offset} is no index of config.model.classes {m.classes}")
    fields = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in m.to_dict().items()
        if name in UTTConfig.__dataclass_fields__
    }
    return UTTConfig(**fields, dtype=precision.compute_dtype(config.precision).name, remat=config.precision.remat)


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe`."""
    cfg, m = model_config(config), config.model
    model = UTT(cfg)
    sizes = buckets(config.data) if m.mode != "sot" else {}
    cycle = turns(sizes) if sizes else ()

    def init(rng, batch):
        del batch
        images, pad = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64), bool)
        return model.init(rng, images, pad, jnp.array([[[8.0, 8.0, 40.0, 40.0]]]))

    def run(function: Callable, params, stats, rng, *args):
        """`function(module, *args)` in training mode: `(its result, batch statistics behind it)`."""
        apply = nn.apply(function, model, mutable=["batch_stats"])
        out, changed = apply({"params": params, "batch_stats": stats}, *args, rngs={"dropout": rng})
        return out, {**stats, **changed.get("batch_stats", {})}

    def sot(params, mutables, batch, rng, step):
        del step
        b, stats = batch["sot"], mutables["batch_stats"]
        out, changed = run(follow_one, params, stats, jax.random.fold_in(rng, 1), b)
        truth = b["boxes"].reshape(-1, 4) / b["images"].shape[2]
        everyone = jnp.ones(truth.shape[:1], bool)
        loss, scalars = losses.track_loss(out["boxes"], truth, everyone, m.giou_fallback)
        if cfg.output_score:
            score = losses.score_loss(out["scores"], out["boxes"][-cfg.iterations :], truth, everyone)
            loss, scalars = loss + score, scalars | {"score": score}
        scalars |= {"iou": mean_iou(out["boxes"][-1], truth, everyone)}
        if cfg.proposal_decoder:
            scalars |= {"proposal_iou": mean_iou(out["boxes"][0], truth, everyone)}
        if not m.zero_grad_updates:  # what the loss does not need is then not computed, either
            changed = {"batch_stats": merge(flatten(stats), used_by_sot(cfg, flatten(changed)))}["batch_stats"]
        return loss, Aux({"batch_stats": changed}, scalars)

    def follow_one(module: UTT, b: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Boxes `[1 + L, B T, 4]` (without proposal decoder `[L, B T, 4]`) as shares of the crop."""
        rows, frames, size = b["images"].shape[:3]
        flat = lambda x: x.reshape(rows * frames, *x.shape[2:])  # noqa: E731
        taps = module.features(normalized(flat(b["images"])), True)
        if m.zero_grad_updates:
            every = module.maps(taps, cfg.tracking_levels, True)
            cells = every[cfg.tracking_levels.index(cfg.track_level)]
        else:
            (cells,) = module.maps(taps, [cfg.track_level], True)
        at = jnp.arange(rows), b["ref"]
        shown = cells.reshape(rows, frames, *cells.shape[1:])[at]
        vector = module.vectors([shown], b["boxes"][at][:, None])
        vector = jnp.repeat(vector, frames, 0)
        start = None if cfg.proposal_decoder else flat(b["start"])[:, None]
        out = module.sot(cells, flat(b["pad"]), vector, start, True)
        found = out["boxes"][0 if cfg.proposal_decoder else 1 :, :, 0] / size
        return {"boxes": found} | ({"scores": out["scores"][..., 0]} if cfg.output_score else {})

    def mot(params, mutables, batch, rng, step, stream):
        del step
        b = batch[stream]
        keys = jax.random.split(rng, 3)
        still = jax.lax.stop_gradient(params)
        first, stats = run(look_at_template, still, mutables["batch_stats"], keys[0], b)
        first = jax.lax.stop_gradient(first)
        p, key_mask, at = propose(first.get("boxes"), b, keys[1])
        where = at if m.mot_target_at == "template" else p.boxes
        pooled = nn.apply(lambda module: module.pooled(first["maps"], where), model)({"params": still})
        out, stats = run(search, params, stats, keys[2], b, jax.lax.stop_gradient(pooled), p.boxes, key_mask)

        share = 1 / jnp.tile(b["search_size"], 2)[:, ::-1][:, None]
        truth, counts = (p.truth * share).reshape(-1, 4), p.marked.reshape(-1)
        found = (out["boxes"] * share).reshape(cfg.iterations, -1, 4)
        loss, scalars = losses.track_loss(found, truth, counts, m.giou_fallback)
        scalars |= {"iou": mean_iou(found[-1], truth, counts), "followed": counts.sum() / len(p.marked)}
        if cfg.output_score:
            score = losses.score_loss(out["scores"].reshape(cfg.iterations, -1), found, truth, counts)
            loss, scalars = loss + score, scalars | {"score": score}
        if "logits" in out:
            target = box.cxcywh_from_xyxy(b["search_boxes"] * share)
            label = jnp.full(b["search_valid"].shape, m.class_offset, jnp.int32)
            detected = losses.detection_loss(out["logits"], out["detections"], target, label, b["search_valid"])
            loss, scalars = loss + detected[0], scalars | detected[1] | {"detection": detected[0]}
        return loss, Aux({"batch_stats": stats}, scalars)

    def levels_of(kind: str) -> tuple[int, ...]:
        return PYRAMID if kind == "pyramid" else (cfg.track_level,)

    def tracking_maps(module: UTT, taps, levels: tuple[int, ...]) -> list[jax.Array]:
        """Maps of `levels`, all being computed where the published code's batch statistics are wanted."""
        if not m.zero_grad_updates:
            return module.maps(taps, levels, True)
        found = dict(zip(cfg.tracking_levels, module.maps(taps, cfg.tracking_levels, True), strict=True))
        return [found[level] for level in levels]

    def look_at_template(module: UTT, b: Mapping[str, jax.Array]) -> dict[str, Any]:
        taps = module.features(normalized(b["template_image"], b["template_pad"]), True)
        found = module.detect(taps, b["template_pad"], True)
        maps = tracking_maps(module, taps, levels_of(m.mot_target_levels))
        return {"maps": maps} | ({"boxes": found["boxes"][-1]} if found else {})

    def propose(detections, b, rng) -> tuple[proposals.Proposals, jax.Array | None, jax.Array]:
        """Proposals, which of them exist (None: all), and where they lie in the template, in its pixels."""
        known = b["template_valid"], b["search_valid"]
        index, there = proposals.common(b["template_track_id"], known[0], b["search_track_id"], known[1])
        near = proposals.noisy(rng, b["search_boxes"], m.noise_min_iou)
        if detections is None:  # without a detector the true boxes stand in
            absent = jnp.array(NOWHERE)
            at = jnp.where(known[0][..., None], b["template_boxes"], absent)
            match = jnp.where(known[0], jnp.arange(known[0].shape[1]), -1)
            mask = known[0].at[:, 0].set(True)
            return proposals.place(at, match, near, b["search_boxes"], index, there), mask, at
        corners = box.xyxy_from_cxcywh(detections)
        first, second = (jnp.tile(b[f"{name}_size"], 2)[:, ::-1][:, None] for name in ("template", "search"))
        cost = -box.pairwise(box.giou, corners, b["template_boxes"] / first)
        match = box.assign(cost, known[0])
        return proposals.place(corners * second, match, near, b["search_boxes"], index, there), None, corners * first

    def search(module: UTT, b, pooled, start, key_mask) -> dict[str, jax.Array]:
        taps = module.features(normalized(b["search_image"], b["search_pad"]), True)
        found = module.detect(taps, b["search_pad"], True)
        maps = tracking_maps(module, taps, levels_of(m.mot_levels))
        vectors = module.describe(pooled)
        if m.mot_target_grad == "none":
            vectors = jax.lax.stop_gradient(vectors)
        out = module.track(maps, vectors, start, key_mask, True)
        return out | ({"logits": found["logits"], "detections": found["boxes"]} if found else {})

    tasks = {"sot": "sot"} if m.mode != "mot" else {}
    tasks |= dict.fromkeys(sizes, "mot")
    objectives = {
        name: Objective(
            sot if task == "sot" else functools.partial(mot, stream=name),
            trains=".*" if m.zero_grad_updates else trained_by(cfg, m.mot_target_grad, task),
            streams=(name,),
        )
        for name, task in tasks.items()
    }

    def pick(step: int) -> str:
        if m.mode == "mix":
            return "sot" if step % 2 == 0 else cycle[step // 2 % len(cycle)]
        return cycle[step % len(cycle)]

    return Method(
        name="utt",
        batch_spec={name: spec for name, spec in batch_spec(config).items() if name in tasks},
        init=init,
        objectives=objectives,
        pick=pick if len(tasks) > 1 else None,
        predict=online.predictor(model, config),
        predict_spec=online.predict_spec(config),
        evaluators=online.evaluators(config, cfg),
        partition_rules=PARTITION,
    )


def mean_iou(predicted: jax.Array, truth: jax.Array, counts: jax.Array) -> jax.Array:
    """Of the boxes that count: `[N, 4]`, `[N, 4]`, `[N]` bool -> scalar."""
    return jnp.where(counts, box.iou(predicted, truth), 0).sum() / jnp.maximum(counts.sum(), 1)


def last_stage(level: int) -> int:
    """The stage of the trunk that a level is made of."""
    return min(level, 2) + 2


def trained_by(cfg: UTTConfig, target_grad: str, task: str) -> Callable[[str], bool]:
    """Predicate of the parameter paths that a task's loss reaches; what it does not reach neither decays nor moves.

    sot: the trunk up to the stage of its level, that level's projection, target, target decoder, corner head, target
    transformer. mot: everything but the single-object parts and what no gradient comes to.
    """
    levels = PYRAMID if task == "mot" and cfg.mot_levels == "pyramid" else (cfg.track_level,)
    deepest = last_stage(max(levels if task == "sot" else (*levels, *cfg.detection_levels)))

    def trains(path: str) -> bool:
        part, _, rest = path.partition("/")
        if part == "backbone":
            return not rest.startswith(tuple(f"layer{s}_" for s in range(deepest + 1, 5)))
        if part == "proj_track":
            return int(rest[5]) in levels
        if part == "target":
            return task == "sot" or target_grad == "proj"
        return part in (("sot_decoder", "corner", "track") if task == "sot" else ("track", "detector", "proj_det"))

    return trains


def used_by_sot(cfg: UTTConfig, stats: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch statistics of layers that a single-object loss depends on."""
    beyond = tuple(f"backbone/layer{s}_" for s in range(last_stage(cfg.track_level) + 1, 5))
    return {path: value for path, value in stats.items() if not path.startswith(beyond)}


def batch_spec(config: ConfigDict) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Fields of the streams: `sot`, and one for each size of pairs (`buckets`).

    sot: T crops of side S; pad True outside of the image; boxes corners in pixels of the crop; start, only without
    proposal decoder: the box that each crop was cut around. mot: a pair of pictures padded right and below; at most M
    objects each, `valid` where there is one; size (height, width) without padding.
    """
    d, m = config.data, config.model
    shape = jax.ShapeDtypeStruct
    b, t, s = d.sot_batch_size, d.frames, d.crop_size
    sot = {
        "images": shape((b, t, s, s, 3), jnp.uint8),
        "pad": shape((b, t, s, s), jnp.bool_),
        "boxes": shape((b, t, 4), jnp.float32),
        "ref": shape((b,), jnp.int32),
    }
    if not m.proposal_decoder:
        sot["start"] = shape((b, t, 4), jnp.float32)
    specs, b, n = {"sot": sot}, d.mot_batch_size, d.max_objects
    for stream, bucket in buckets(d).items():
        h, w = bucket.size
        one = {
            "image": shape((b, h, w, 3), jnp.uint8),
            "pad": shape((b, h, w), jnp.bool_),
            "boxes": shape((b, n, 4), jnp.float32),
            "valid": shape((b, n), jnp.bool_),
            "track_id": shape((b, n), jnp.int32),
            "size": shape((b, 2), jnp.float32),
        }
        specs[stream] = {f"{frame}_{name}": value for frame in ("template", "search") for name, value in one.items()}
    return specs
