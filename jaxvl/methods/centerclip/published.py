"""CenterCLIP's published checkpoints (mzhaoshuai/CenterCLIP): CLIP4Clip's layout with cluster embeddings, and the
arguments of the run in `hparams_train.json` beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import clip4clip, keys
from jaxvl.interop.clip import Arrays
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.interop.layouts import CLIP, Layout, Source
from jaxvl.methods.centerclip.reduce import SHIFTS, reduction_plan
from jaxvl.nn.clip import CLIPConfig

HPARAMS = "hparams_train.json"
CLUSTER = r"clip\.visual\.transformer\.resblocks\.(\d+)\.tokencluster_inter\."
DROPPED = (
    Dropped(CLUSTER + "cluster_frame_embed", "declared, but the published code never uses it"),
    Dropped(CLUSTER + "spg", "a mask that follows from the config"),
)
ALGORITHMS = {"kmediods++": "kmedoids++"}  # the spelling is theirs; the other names are ours as well
WIDE = 100  # tokens a frame from which the published code takes the wider spatial window
HEAD_LN_EPS = 1e-5  # CLIP4Clip itself has 1e-12


def cluster_rules(config: CLIPConfig, arrays: Mapping[str, Any]) -> list[Rule]:
    """Rules for the cluster embeddings there are, of published keys or of flat paths of ours."""
    found = {}
    for name, value in arrays.items():
        match = re.fullmatch(CLUSTER + r"cluster_embed|visual/reduce_(\d+)/cluster_embed", name)
        if match:
            found[int(match.group(1) or match.group(2))] = len(value)
    return [
        Rule(
            f"clip.visual.transformer.resblocks.{i}.tokencluster_inter.cluster_embed",
            (k, config.vision_width),
            (f"visual/reduce_{i}/cluster_embed",),
            keys.same(),
        )
        for i, k in sorted(found.items())
    ]


def from_published(arrays: Arrays, config: CLIPConfig) -> tuple[dict[str, Any], KeyReport]:
    """Published keys (`module.` stripped) -> variables, cluster embeddings under `visual/reduce_{a}`."""
    arrays = keys.plain_keys(arrays)
    rules = clip4clip.rules(config, arrays) + cluster_rules(config, arrays)
    flat, report = keys.forward(rules, arrays, (*clip4clip.dropped(config), *DROPPED))
    return keys.to_variables(flat), report


def to_published(variables: Mapping[str, Any], config: CLIPConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse, with `module.` before every key and the buffer `position_ids` that the published code expects."""
    flat = keys.to_flat(variables)
    arrays, report = keys.backward(clip4clip.rules(config, flat) + cluster_rules(config, flat), flat)
    arrays = clip4clip.with_unread_patch(arrays)
    if not config.vision_blocks:
        arrays["clip.visual.position_ids"] = np.arange(config.patches + 1, dtype=np.int64)[None]
    return {f"module.{k}": v for k, v in arrays.items()}, report


def overrides(hparams: Mapping[str, Any], config: CLIPConfig) -> dict[str, Any]:
    """The config fields (`a.b` -> value) that the arguments of a published run stand for. Raises InputError."""
    frames, words = int(hparams["max_frames"]), int(hparams["max_words"])
    out: dict[str, Any] = {"data.frames": frames, "data.max_words": words}
    out["model.preset"] = str(hparams["pretrained_clip_name"])
    out["model.linear_patch"] = str(hparams.get("linear_patch", "2d"))
    out["model.freeze_layer_num"] = int(hparams.get("freeze_layer_num", 0))
    out["model.head"] = str(hparams.get("sim_header", "meanP"))
    if out["model.head"] in ("seqTransf", "tightTransf"):
        out["model.head_layers"] = int(hparams.get("cross_num_hidden_layers", 4))
        out["model.head_ln_eps"] = HEAD_LN_EPS
    if not hparams.get("cluster_inter", "target_frames_blocks" in hparams):  # the lists mean nothing where it is 0
        return out | {"model.schedule": "none", "model.reduce.algorithm": "none"}
    algorithm = str(hparams.get("cluster_algo", "kmediods++"))
    algorithm = ALGORITHMS.get(algorithm, algorithm)
    out["model.reduce.algorithm"] = algorithm
    if algorithm in SHIFTS:
        return out | {"model.schedule": "none"}
    plan = reduction_plan(
        tuple(map(int, hparams["target_frames_blocks"])),
        tuple(map(int, hparams["cluster_num_blocks"])),
        frames=frames,
        patches=config.patches,
        layers=config.vision_layers,
    )
    out["model.schedule"] = ";".join(f"B{p.after}-{p.frames_after},{p.tokens_after}" for p in plan) or "none"
    norm = float(hparams.get("minkowski_norm_p", 2.0))
    if hparams.get("cluster_distance", "euclidean") == "cosine":
        out["model.reduce.metric"] = "cosine"
    elif norm in (1.0, 2.0):
        out["model.reduce.metric"] = f"l{int(norm)}"
    else:
        raise InputError(f"{HPARAMS}: minkowski_norm_p {norm} is neither 1 nor 2")
    out["model.reduce.aggregation"] = "mean" if hparams.get("aggregation") == "mean" else "medoid"
    out["model.reduce.max_iters"] = int(hparams.get("cluster_iter_limit", 100))
    out["model.reduce.pre_norm"] = bool(hparams.get("pre_norm", 0))
    clusters = algorithm in ("kmedoids++", "spectral")  # the others have no embedding, whatever the argument says
    out["model.reduce.cluster_embedding"] = clusters and bool(hparams.get("cluster_embedding", 0))
    if algorithm == "spectral":
        out["model.reduce.sigma"] = float(hparams.get("spectral_sigma", 2.0))
        out["model.reduce.graph"] = "knn" if hparams.get("spectral_graph") == "KNN" else "heat"
        out["model.reduce.knn_k"] = int(hparams.get("spectral_knn_k", 1))
        out["model.reduce.spg"] = bool(hparams.get("spectral_spg", 0))
        out["model.reduce.t_kernel"] = 7
        out["model.reduce.s_kernel"] = 9 if config.patches < WIDE else 19
    return out


def read_overrides(path: Path, config: CLIPConfig) -> dict[str, Any]:
    """`overrides` of an `hparams_train.json`; empty when there is none. Raises InputError when it is damaged."""
    if not path.is_file():
        return {}
    try:
        return overrides(json.loads(path.read_text(encoding="utf-8")), config)
    except KeyError as error:
        raise InputError(f"{path}: lacks {error}, so it is not of a published run") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the arguments of a published run ({error})") from None


def facts(source: Source, config: CLIPConfig) -> dict[str, Any]:
    """LayerNorm eps of the head, and config overrides from the arguments beside the checkpoint."""
    return {"head_ln_eps": HEAD_LN_EPS, "overrides": read_overrides(source.path.with_name(HPARAMS), config)}


LAYOUTS = {
    "centerclip": Layout(
        CLIP,
        lambda source, given: clip4clip.infer_config(keys.plain_keys(source.arrays), {**source.stated, **given}),
        from_published,
        to_published,
        facts,
    )
}
