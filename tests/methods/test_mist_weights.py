"""Published MIST checkpoints and converted BERTs find their place, every key accounted for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.interop import bert, keys
from jaxvl.interop.safetensors_file import read_safetensors
from jaxvl.interop.weights import load_weights
from jaxvl.methods.mist import method, published, recipe, weights
from jaxvl.verbs import convert
from tests.interop import numpy_bert, torch_writer
from tests.methods.numpy_mist import SIZES, random_arrays

GIVEN = {"heads": 4, "text_heads": 2}
NEXTQA = dataclasses.replace(SIZES, words=False, num_layers=1, frame_blocks=2, positions=11)
OLD = dataclasses.replace(SIZES, regions=False, positions=6 + 4 + 2 * 2 * 4)


def quiet(line):
    pass


def config(*overrides):
    c = recipe.base()
    c.init.weights = "FOLDER"
    c.model.update({"feature_dim": 16, "query_dim": 10, "patches": 4, "d_model": 16, "heads": 4, "ff_dim": 24})
    c.model.update({"num_segments": 4, "topj": 3, "num_answers": 7})
    c.model.text.update(
        {"preset": "tiny", "vocab_size": 30, "width": 16, "layers": 1, "heads": 2, "ff_dim": 20, "max_positions": 12}
    )
    c.data.update({"frames": 8, "question_words": 6, "answer_words": 5})
    return configs.apply(c.lock(), overrides)


def fresh(c):
    """Variables of the config's shapes, all nines."""
    from tests.golden_update import abstract_state

    state = abstract_state(c)
    full = {"params": state.params, **state.mutables}
    return keys.to_variables(
        {p: np.full(x.shape, 9, np.float32) for p, x in keys.to_flat(full).items()}, ("batch_stats", "answers")
    )


@pytest.mark.parametrize("sizes", [SIZES, OLD, NEXTQA], ids=["agqa", "no_regions", "nextqa"])
def test_there_and_back_bit_for_bit(tmp_path, sizes):
    """A `.pth` with the prefix of several GPUs, its CLIP and counters; the export holds every tensor but CLIP's."""
    arrays = random_arrays(sizes)
    counters = {
        k.replace("running_var", "num_batches_tracked"): np.array(7, np.int64)
        for k in arrays
        if k.endswith("running_var")
    }
    file = torch_writer.save(
        tmp_path / "best_model.pth",
        torch_writer.Ordered(
            {f"module.{k}": v for k, v in {**arrays, **counters, "clip.logit_scale": np.array(4.6, np.float32)}.items()}
        ),
    )
    convert.convert("mist", file, tmp_path / "w", given=GIVEN, say=quiet)
    flat, info = load_weights(tmp_path / "w")
    assert info["config"]["positions"] == sizes.positions
    assert info["report"]["unused"] == info["report"]["missing"] == []
    read = {r.key for r in published.rules(sizes)}
    assert set(info["report"]["dropped"]) == {*arrays, *counters, "clip.logit_scale"} - read
    assert published.config_of_params(flat) == dataclasses.replace(sizes, positions=134 if sizes.words else 78)
    out = convert.reverse("mist", tmp_path / "w", tmp_path / "out", say=quiet)
    back, _ = read_safetensors(out)
    assert back.keys() == {f"module.{k}" for k in {**arrays, **counters}}
    for key in read:
        np.testing.assert_array_equal(back[f"module.{key}"], arrays[key], err_msg=key)
    for key in set(arrays) - read:
        assert back[f"module.{key}"].shape == arrays[key].shape, key
    again = convert.convert("mist", out, tmp_path / "again", given=GIVEN, say=quiet)
    repeated, _ = load_weights(again)
    for path, value in flat.items():
        np.testing.assert_array_equal(repeated[path], value)


def test_wrong_checkpoints_are_one_line():
    arrays = random_arrays()
    key = "ISTA.0.position.position_embeddings.weight"
    with pytest.raises(InputError, match=f"{key}: is not the fixed sinusoid"):
        published.from_published({**arrays, key: arrays[key] + 0.1}, SIZES)
    with pytest.raises(InputError, match="so it is no MIST"):
        published.infer({"a": np.ones((2, 2))}, {})
    _, report = published.from_published({**arrays, "odd.weight": np.ones(2)}, SIZES)
    with pytest.raises(InputError, match=r"unused: odd.weight"):
        report.check()


def test_a_published_model_is_taken_whole_but_for_the_vocabulary():
    c = config()
    got, _ = published.from_published(random_arrays(), SIZES)
    flat = keys.to_flat(got)
    laid = weights.adopt(c, fresh(c), flat, {})
    for path, value in flat.items():
        np.testing.assert_array_equal(keys.to_flat(laid)[path], value, err_msg=path)
    np.testing.assert_array_equal(laid["answers"]["ids"], np.full((7, 5), 9))
    another = {**flat, "answers/ids": np.zeros((7, 5), np.float32)}  # another run of ours
    np.testing.assert_array_equal(weights.adopt(c, fresh(c), another, {})["answers"]["ids"], np.full((7, 5), 9))
    with pytest.raises(InputError, match=r"in the model only .*fusion/bias"):
        weights.adopt(c, fresh(c), {p: x for p, x in flat.items() if p != "fusion/bias"}, {})


def test_a_bert_fills_both_text_encoders():
    c = config()
    cfg = method.model_config(c).text
    arrays = numpy_bert.random_arrays(cfg, pooler=True)
    got, _ = bert.from_hf(arrays, dataclasses.replace(cfg, pooler=True))
    laid = keys.to_flat(weights.adopt(c, fresh(c), keys.to_flat(got), {"config": {"ln_eps": 1e-12}}))
    for path, value in keys.to_flat(got).items():
        if not path.startswith("pooler/"):
            np.testing.assert_array_equal(laid[f"question_bert/{path}"], value)
            np.testing.assert_array_equal(laid[f"answer_bert/{path}"], value)
    assert (laid["fusion/kernel"] == 9).all()
    with pytest.raises(InputError, match="epsilon 1e-05"):
        weights.adopt(c, fresh(c), keys.to_flat(got), {"config": {"ln_eps": 1e-5}})
    small = {p: x for p, x in keys.to_flat(got).items() if p != "layer_0/ffn_in/bias"}
    with pytest.raises(InputError, match=r"question_bert/layer_0/ffn_in/bias"):
        weights.adopt(c, fresh(c), small, {})


def test_an_export_of_nextqa_holds_the_tensors_of_its_published_model():
    """Its code builds none of AGQA's position tables, and 78 rows in its layer (model/mist_nextqa.py)."""
    flat = keys.to_flat(published.from_published(random_arrays(NEXTQA), NEXTQA)[0])
    arrays, _ = published.to_published(keys.to_variables(flat), published.config_of_params(flat))
    tables = {k: v.shape for k, v in arrays.items() if "position_embeddings" in k and "bert" not in k}
    assert tables == {"module.ISTA.0.position.position_embeddings.weight": (78, 16)}


def test_an_export_has_the_published_names_of_what_is_never_used():
    """As the constructor of model/mist.py makes them: without one of these a strict load fails."""
    shapes = {k: v.shape for k, v in published.unused(SIZES).items()}
    expected = {
        "position.position_embeddings.weight": (190, 16),
        "position.modality_embedding.weight": (2, 16),
        "position.LayerNorm.weight": (16,),
        "frame_position_embedding.position_embeddings.weight": (32, 16),
        "question_position_embedding.position_embeddings.weight": (30, 16),
        "token_type_embedding.modality_embedding.weight": (3, 16),
        "crossmodal_matching.weight": (1, 16),
        "crossmodal_matching.bias": (1,),
        "ttrans.layer.1.attention.out_lin.weight": (16, 16),
    }
    assert {k: shapes.get(k) for k in expected} == expected
