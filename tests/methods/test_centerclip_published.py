from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.weights import merge_weights
from jaxvl.methods.centerclip import published
from jaxvl.methods.centerclip.model import CenterCLIP, CenterCLIPConfig
from jaxvl.methods.centerclip.recipe import base
from jaxvl.methods.centerclip.reduce import ReduceConfig
from jaxvl.nn.clip import CLIP_PRESETS
from tests.interop.numpy_clip import TINY, random_arrays

CLIP4 = dataclasses.replace(TINY, vision_layers=3)


def arrays(k=3):
    rng = np.random.default_rng(0)
    out = {f"module.clip.{key}": v for key, v in random_arrays(CLIP4, extras=False).items()}
    out["module.clip.visual.position_ids"] = np.arange(5)[None]
    place = "module.clip.visual.transformer.resblocks.2.tokencluster_inter"
    out[f"{place}.cluster_embed"] = rng.standard_normal((k, 24)).astype(np.float32)
    out[f"{place}.cluster_frame_embed"] = np.zeros((2, 1, 24), np.float32)
    out[f"{place}.spg"] = np.zeros((1, 8, 8), np.float32)
    return out


def test_round_trip_and_what_is_dropped():
    source = arrays()
    variables, report = published.from_published(source, CLIP4)
    report.check()
    assert {k.split(".")[-1] for k, _ in report.dropped} == {"position_ids", "cluster_frame_embed", "spg"}
    back, report = published.to_published(variables, CLIP4)
    report.check()
    dropped = {k for k in source if k.endswith(("cluster_frame_embed", "spg"))}
    assert back.keys() == source.keys() - dropped
    for name, value in back.items():
        np.testing.assert_array_equal(value, source[name])


def test_weights_fit_the_model():
    config = CenterCLIPConfig(CLIP4, 4, (4, 4, 2), (4, 4, 3), ReduceConfig(cluster_embedding=True))
    shapes = jax.eval_shape(
        CenterCLIP(config).init,
        jax.random.key(0),
        np.zeros((1, 4, 16, 16, 3), np.uint8),
        np.ones((1, 4), bool),
        np.zeros((1, 8), np.int32),
    )
    flat = keys.to_flat(published.from_published(arrays(), CLIP4)[0])
    merged = merge_weights(shapes["params"], flat)
    assert merged["visual"]["reduce_2"]["cluster_embed"].shape == (3, 24)


HPARAMS = {
    "max_frames": 12,
    "max_words": 32,
    "pretrained_clip_name": "ViT-B/32",
    "cluster_inter": 1,
    "cluster_algo": "kmediods++",
    "cluster_distance": "euclidean",
    "minkowski_norm_p": 1.0,
    "cluster_num_blocks": [49] * 12,
    "target_frames_blocks": [12] * 6 + [4] * 6,
    "aggregation": None,
    "cluster_iter_limit": 80,
    "freeze_layer_num": 0,
    "pre_norm": 0,
    "sim_header": "meanP",
}
B32, B16 = CLIP_PRESETS["ViT-B/32"], CLIP_PRESETS["ViT-B/16"]


def test_arguments_of_a_published_run():
    got = published.overrides(HPARAMS, B32)
    assert got["model.schedule"] == "B6-4,49"
    assert got["model.reduce.algorithm"] == "kmedoids++"
    assert got["model.reduce.metric"] == "l1"
    assert got["model.reduce.max_iters"] == 80
    assert got["data.frames"] == 12
    assert got["model.head"] == "meanP"
    assert "model.head_ln_eps" not in got
    assert published.overrides(HPARAMS | {"sim_header": "seqTransf"}, B32)["model.head_ln_eps"] == 1e-5
    embed = HPARAMS | {"cluster_embedding": 1}
    assert published.overrides(embed, B32)["model.reduce.cluster_embedding"]
    sparse = published.overrides(embed | {"cluster_algo": "sparse_sampling"}, B32)
    assert not sparse["model.reduce.cluster_embedding"]  # the published code makes none there
    unsaid = {k: v for k, v in HPARAMS.items() if k != "cluster_inter"}
    assert published.overrides(unsaid, B32)["model.schedule"] == "B6-4,49"
    plain = published.overrides(HPARAMS | {"cluster_inter": 0}, B32)
    assert plain["model.schedule"] == "none"
    spectral = {"cluster_algo": "spectral", "spectral_graph": "KNN", "spectral_spg": 1, "cluster_distance": "cosine"}
    blocks = {"cluster_num_blocks": [196] * 4 + [160] * 8, "target_frames_blocks": [12] * 4 + [4] * 8}
    got = published.overrides(HPARAMS | spectral | blocks, B16)
    assert got["model.schedule"] == "B4-4,160"
    assert (got["model.reduce.graph"], got["model.reduce.s_kernel"], got["model.reduce.metric"]) == (
        "knn",
        19,
        "cosine",
    )
    assert published.overrides(HPARAMS | {"cluster_algo": "token_shift"}, B32)["model.schedule"] == "none"
    assert got["model.linear_patch"] == "2d"
    assert published.overrides(HPARAMS | {"linear_patch": "3d"}, B32)["model.linear_patch"] == "3d"


@pytest.mark.parametrize("extra", [{}, {"cluster_algo": "spectral"}, {"cluster_inter": 0}])
def test_overrides_are_fields_of_the_config(extra):
    config = base()
    for name, value in published.overrides(HPARAMS | extra, B32).items():
        node = config
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node[parent]
        node[leaf] = value  # ConfigDict: raises for an unknown field or another type


def test_damaged_arguments_are_named(tmp_path):
    path = tmp_path / published.HPARAMS
    assert published.read_overrides(path, B32) == {}
    path.write_text(json.dumps(HPARAMS))
    assert published.read_overrides(path, B32)["model.schedule"] == "B6-4,49"
    for content, words in (("{", "not the arguments"), ('{"max_frames": 12}', "lacks 'max_words'")):
        path.write_text(content)
        with pytest.raises(InputError, match=rf"hparams_train\.json: {words}"):
            published.read_overrides(path, B32)
    with pytest.raises(InputError, match="minkowski_norm_p 3"):
        published.overrides(HPARAMS | {"minkowski_norm_p": 3.0}, B32)
