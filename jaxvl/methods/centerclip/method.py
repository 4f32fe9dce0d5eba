"""CenterCLIP wired to the contract: one objective, symmetric InfoNCE over clustered segments."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Ask, Aux, Evaluator, Method, Objective
from jaxvl.methods.centerclip import losses
from jaxvl.methods.centerclip.model import CenterCLIP, CenterCLIPConfig
from jaxvl.methods.centerclip.reduce import ReduceConfig, schedule
from jaxvl.metrics import retrieval
from jaxvl.nn.clip import CLIP_PRESETS, CLIPConfig
from jaxvl.nn.transformer import MOST_BLOCKS, TENSOR_RULES
from jaxvl.ops.losses import symmetric_infonce


def model_config(config: ConfigDict) -> CenterCLIPConfig:
    """The model of `config.model`: a CLIP preset with fields replaced, and where tokens are reduced."""
    fields = config.model.to_dict()
    preset, notation, reduce = fields.pop("preset"), fields.pop("schedule"), fields.pop("reduce")
    head = {name: fields.pop(name) for name in ("head", "head_layers", "head_ln_eps")}
    for name in ("encoder_grad_scale", "logit_scale_range", "mask_same_id", "freeze_layer_num"):
        fields.pop(name)
    if preset and preset not in CLIP_PRESETS:
        raise InputError(f"config.model.preset: {preset!r} is none of {', '.join(CLIP_PRESETS)}")
    clip = CLIP_PRESETS[preset] if preset else CLIPConfig()
    replaced = {k: v for k, v in fields.items() if v}
    clip = dataclasses.replace(
        clip,
        **replaced,
        dtype=precision.compute_dtype(config.precision).name,
        remat=config.precision.remat,
        scan_layers=config.precision.scan_layers,
        frozen_layers=min(max(config.model.freeze_layer_num, 0), MOST_BLOCKS),
    )
    reduce["cluster_iters"] = reduce["cluster_iters"] or None
    reduce["sigma"] = "median" if reduce.pop("median_sigma") else reduce["sigma"]
    target, tokens = schedule(notation, layers=clip.vision_layers, frames=config.data.frames, patches=clip.patches)
    return CenterCLIPConfig(clip, config.data.frames, target, tokens, ReduceConfig(**reduce), **head)


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe.base`."""
    cfg = model_config(config)
    model = CenterCLIP(cfg)
    scale = config.model.encoder_grad_scale
    lowest, highest = config.model.logit_scale_range
    if config.eval.ties not in retrieval.TIE_RULES:
        raise InputError(f"config.eval.ties: {config.eval.ties!r} is none of {', '.join(retrieval.TIE_RULES)}")

    def init(rng, batch):
        b = batch["train"]
        return model.init({"params": rng, "reduce": rng}, b["frames"][:1], b["mask"][:1], b["ids"][:1], train=True)

    def encode(params, mutables, batch, rng, step):
        del mutables, step
        b = batch["train"]
        out = model.apply({"params": params}, b["frames"], b["mask"], b["ids"], train=True, rngs={"reduce": rng})
        z = {"text": out["text"], "segments": out["segments"]}
        if scale != 1.0:
            z = jax.tree.map(lambda x: losses.scale_gradient(x, scale), z)
        facts = {k: v.astype(jnp.float32) for k, v in out.items() if k.startswith(("iterations_", "mean_degree_"))}
        return {**z, "segment_mask": out["segment_mask"].astype(jnp.float32), **facts}

    def head(params, z, batch, rng, step):
        del step
        same = batch["train"]["video_index"] if config.model.mask_same_id else None
        if cfg.head == "tightTransf":
            scores = model.apply(
                {"params": params}, z["text"], z["segments"], z["segment_mask"] > 0, True,
                method=CenterCLIP.score_pairs, rngs={"dropout": jax.random.fold_in(rng, 1)},
            )  # fmt: skip
            with precision.loss_term("contrast"):
                loss = symmetric_infonce(scores, same)
        else:
            loss = losses.retrieval_loss(z["text"], z["segments"], z["segment_mask"] > 0, params["logit_scale"], same)
        scalars = {"logit_scale": params["logit_scale"]}
        scalars |= {k: v.mean() for k, v in z.items() if k.startswith(("iterations_", "mean_degree_"))}
        return loss, Aux({}, scalars)

    def after_update(state):
        return state.replace(params=losses.clamp_logit_scale(state.params, lowest, highest))

    def predict(variables, batch):
        out = {}
        if "text" in batch:
            text = model.apply(variables, batch["text"]["ids"], method=CenterCLIP.encode_text)
            out["text"] = losses.l2_normalize(text)
            if cfg.head == "tightTransf":
                out["text_features"] = text
        if "video" in batch:
            b = batch["video"]
            segments, mask, aux = model.apply(variables, b["frames"], b["mask"], method=CenterCLIP.encode_video)
            out["video"] = losses.pool_segments(segments, mask)
            out["segments"], out["segment_mask"] = losses.l2_normalize(segments), mask
            if cfg.head == "tightTransf":
                out["segment_features"] = segments
            out |= {k: v for k, v in aux.items() if k.startswith("medoids_")}
        if "pairs" in batch:
            b = batch["pairs"]
            args = (b["text_features"], b["segment_features"], b["segment_mask"])
            out["scores"] = model.apply(variables, *args, method=CenterCLIP.score_pairs)
        return out

    return Method(
        name="centerclip",
        batch_spec={"train": batch_spec(config, cfg)},
        init=init,
        objectives={
            "retrieve": Objective(
                encode=encode,
                head=head,
                trains=trained_parameters(config.model.freeze_layer_num, cfg.clip.linear_patch == "3d"),
            )
        },
        after_update=after_update,
        predict=predict,
        predict_spec=predict_spec(config, cfg),
        evaluators={"retrieval": RetrievalEvaluator(config.eval.ties, config.data.eval_batch_size, cfg.head)},
        partition_rules=TENSOR_RULES,
    )


def trained_parameters(freeze_layer_num: int, patches_3d: bool = False) -> Callable[[str], bool]:
    """CLIP4Clip's freezing rule. -1 trains everything; n >= 0 freezes all of CLIP but its last norms, projections
    and temperature and the blocks from n on; so 0 freezes the embeddings, `ln_pre` and the patch convolution.
    patches_3d: patches of three frames are trained all the same, as they start as those of one."""
    always = r"text/ln_final|text/text_projection|visual/ln_post|visual/proj"
    always += "|visual/patch_embed" if patches_3d else ""

    def trains(path: str) -> bool:
        if freeze_layer_num < 0 or not path.startswith(("visual/", "text/")) or "/reduce_" in path:
            return True
        block = re.search(r"/resblocks_(\d+)/", path)
        if block is not None:
            return int(block.group(1)) >= freeze_layer_num
        return re.search(always, path) is not None

    return trains


def batch_spec(config: ConfigDict, cfg: CenterCLIPConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Fields of the training stream."""
    b, t, r = config.data.batch_size, config.data.frames, cfg.clip.image_size
    return {
        "frames": jax.ShapeDtypeStruct((b, t, r, r, 3), jnp.uint8),
        "mask": jax.ShapeDtypeStruct((b, t), jnp.bool_),
        "ids": jax.ShapeDtypeStruct((b, config.data.max_words), jnp.int32),
        "video_index": jax.ShapeDtypeStruct((b,), jnp.int32),
    }


PAIR_FIELDS = ("text_features", "segment_features", "segment_mask")


def predict_spec(config: ConfigDict, cfg: CenterCLIPConfig) -> list[dict[str, dict[str, jax.ShapeDtypeStruct]]]:
    """What the evaluation gives to `predict`: videos, texts, and blocks of pairs where the head scores these."""
    b, e = config.data.eval_batch_size, cfg.clip.embed_dim
    rows = {k: jax.ShapeDtypeStruct((b, *v.shape[1:]), v.dtype) for k, v in batch_spec(config, cfg).items()}
    found = [{"video": {name: rows[name] for name in ("frames", "mask")}}, {"text": {"ids": rows["ids"]}}]
    if cfg.head == "tightTransf":
        shapes = (((b, e), jnp.float32), ((b, cfg.segments, e), jnp.float32), ((b, cfg.segments), jnp.bool_))
        found.append({"pairs": {name: jax.ShapeDtypeStruct(*s) for name, s in zip(PAIR_FIELDS, shapes)}})
    return found


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(Evaluator):
    """Text to video and video to text over the whole split; texts find their video by its id, so a video may have
    one caption or many.

    ties: 'optimistic' (default), 'official' or 'pessimistic'. batch: rows a call of predict. head: with the
    cross-encoder every pair is scored by `predict`, otherwise the unit embeddings are multiplied here.
    """

    ties: str = "optimistic"
    batch: int = 32
    head: str = "meanP"
    streams: tuple[str, ...] = ("video", "text")

    def init(self) -> dict[str, list]:
        """Empty lists of embeddings and ids."""
        return {k: [] for k in ("video", "text", "video_id", "text_id", "caption", *PAIR_FIELDS)}

    def update(self, acc: Any, stream: str, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]) -> Any:
        """Collects unit embeddings `[b, E]`, and what the cross-encoder needs."""
        acc[stream].append(outputs[stream])
        acc[f"{stream}_id"] += list(examples["_video_id"])
        if stream == "text":
            acc["caption"] += list(examples["_caption"])
        if self.head == "tightTransf":
            for name in PAIR_FIELDS:
                if name in outputs:
                    acc[name].append(outputs[name])
        return acc

    def refine(self, acc: Any, ask: Ask) -> Any:
        """The cross-encoder's scores of all pairs, `[n_text, n_video]`, block by block."""
        if self.head != "tightTransf":
            return acc
        text, segments, mask = (np.concatenate(acc[name]) for name in PAIR_FIELDS)
        scores = np.zeros((len(text), len(segments)), np.float32)
        rows = lambda x, i: x[np.arange(i, i + self.batch) % len(x)]  # noqa: E731 - the last block is filled up
        corners = list(itertools.product(range(0, len(text), self.batch), range(0, len(segments), self.batch)))
        pairs = (dict(zip(PAIR_FIELDS, (rows(text, i), rows(segments, j), rows(mask, j)))) for i, j in corners)
        for (i, j), outputs in zip(corners, ask({"pairs": block} for block in pairs)):
            block = outputs["scores"][: len(text) - i, : len(segments) - j]
            scores[i : i + self.batch, j : j + self.batch] = block
        return acc | {"scores": scores}

    def compute(self, acc: Any) -> dict[str, float]:
        """`t2v/R@1` ... `v2t/MnR`, the size of the gallery and the share of tied queries."""
        arrays = self.artifacts(acc)
        row = {name: i for i, name in enumerate(acc["video_id"])}
        kept = [i for i, name in enumerate(acc["text_id"]) if name in row]  # a skipped video cannot be retrieved
        gold = np.array([row[acc["text_id"][i]] for i in kept])
        single = len(set(gold)) == len(gold) == len(acc["video_id"])
        if "scores" in acc:
            scores = acc["scores"][kept]
            if single:
                metrics = retrieval.single_caption_metrics(scores[:, gold], ties=self.ties)
            else:
                metrics = retrieval.multi_caption_metrics(scores, gold, ties=self.ties)
        else:
            text, video = arrays["text"][kept], arrays["video"]
            owner = (video[gold], None) if single else (video, gold)
            metrics = retrieval.embedding_metrics(text, *owner, ties=self.ties)
        return metrics | {"gallery": len(acc["video_id"]), "captions": len(kept)}

    def artifacts(self, acc: Any) -> dict[str, np.ndarray]:
        """Embeddings with their ids, for the report and for later searches."""
        return {
            "text": np.concatenate(acc["text"]),
            "video": np.concatenate(acc["video"]),
            "text_id": np.array(acc["text_id"]),
            "video_id": np.array(acc["video_id"]),
            "caption": np.array(acc["caption"]),
        } | ({"scores": acc["scores"]} if "scores" in acc else {})
