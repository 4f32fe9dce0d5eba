from __future__ import annotations

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import bert, keys
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors
from jaxvl.interop.weights import load_weights
from jaxvl.nn.bert import BERT_PRESETS, Bert
from jaxvl.verbs import convert
from tests.interop import torch_writer
from tests.interop.numpy_bert import TINY, TINY_DISTIL, forward, random_arrays

CONFIGS = {"hf_bert": TINY, "hf_distilbert": TINY_DISTIL}
PREFIX = {"hf_bert": "bert.", "hf_distilbert": "distilbert."}


def quiet(line):
    pass


def texts():
    ids = np.array([[3, 9, 27, 4, 0, 0, 0], [3, 8, 8, 12, 49, 30, 4]])
    return ids, ids > 0


@pytest.mark.parametrize(
    ("preset", "pooler", "tensors", "numbers"),
    [
        ("bert-base-uncased", True, 199, 109_482_240),
        ("bert-base-uncased", False, 197, 108_891_648),
        ("bert-large-uncased", True, 391, 335_141_888),
        ("distilbert-base-uncased", False, 100, 66_362_880),
        ("minilm-l6", True, 103, 22_713_216),
    ],
)
def test_tensors_and_numbers_of_the_published_sizes(preset, pooler, tensors, numbers):
    config = dataclasses.replace(BERT_PRESETS[preset], pooler=pooler)
    rules = bert.rules(config)
    assert len(rules) == tensors
    assert sum(np.prod(r.shape) for r in rules) == numbers
    shapes = jax.eval_shape(Bert(config).init, jax.random.key(0), jnp.ones((1, 4), jnp.int32))
    flat = keys.to_flat(shapes)
    assert set(flat) == {p for r in rules for p in r.paths}
    assert sum(x.size for x in flat.values()) == numbers
    assert bert.config_of_params(flat, {}) == config


@pytest.mark.parametrize("family", CONFIGS)
def test_hidden_states_are_those_of_the_published_equations(family):
    config = dataclasses.replace(CONFIGS[family], pooler=family == "hf_bert")
    arrays = random_arrays(config, pooler=config.pooler)
    variables, report = bert.from_hf(arrays, config)
    report.check()
    ids, mask = texts()
    apply = jax.jit(lambda v, ids, types: Bert(config).apply(v, ids, token_types=types))
    types = np.array([[0, 0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 1, 0]]) if config.token_types else None
    for given in {None, "types"} if config.token_types else {None}:
        given = None if given is None else types
        got = apply(variables, ids, given)
        tokens, pooled = forward(arrays, config, ids, mask, given)
        np.testing.assert_allclose(got.tokens, tokens, atol=2e-5)
        if pooled is not None:
            np.testing.assert_allclose(got.pooled, pooled, atol=2e-5)


def test_padding_and_words_behind_the_mask_change_nothing():
    variables, _ = bert.from_hf(random_arrays(TINY), TINY)
    ids, _ = texts()
    apply = jax.jit(lambda v, ids, mask: Bert(TINY).apply(v, ids, mask).tokens)
    longer = np.pad(ids, ((0, 0), (0, 5)))
    other = np.where(longer > 0, longer, 17)
    plain = apply(variables, longer, longer > 0)
    np.testing.assert_allclose(apply(variables, ids, ids > 0)[1], plain[1, :7], atol=1e-5)
    np.testing.assert_array_equal(apply(variables, other, longer > 0)[0, :4], plain[0, :4])


def test_dropout_acts_in_training_alone_and_where_each_of_the_two_has_it():
    ids, _ = texts()
    variables, _ = bert.from_hf(random_arrays(TINY), TINY)
    run = jax.jit(lambda v, key: Bert(TINY).apply(v, ids, train=True, rngs={"dropout": key}).tokens)
    first, second = run(variables, jax.random.key(0)), run(variables, jax.random.key(1))
    assert float(jnp.abs(first - second).max()) > 0.1
    for config, places in ((TINY, 1 + 3 * 2), (TINY_DISTIL, 1 + 2 * 2)):  # embeddings; weights, (output,) hidden
        jaxpr = jax.make_jaxpr(
            lambda v, c=config: Bert(c).apply(v, ids, train=True, rngs={"dropout": jax.random.key(0)})
        )
        text = str(jaxpr(bert.from_hf(random_arrays(config), config)[0]))
        assert len(re.findall(r"jit\[name=_bernoulli", text)) == places


def test_remat_gives_the_same_gradient():
    ids, _ = texts()
    config = dataclasses.replace(TINY, layers=1)
    variables, _ = bert.from_hf(random_arrays(config), config)

    def gradient(remat):
        model = Bert(dataclasses.replace(config, remat=remat))
        loss = lambda v: (model.apply(v, ids, train=True, rngs={"dropout": jax.random.key(3)}).tokens ** 3).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(variables)

    a, b = gradient("none"), gradient("full")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-2), a, b)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("old_names", [False, True])
def test_there_and_back_bit_for_bit(tmp_path, family, old_names):
    """From a .bin of a pre-training model, with its prefix and heads, and back to safetensors."""
    config = CONFIGS[family]
    arrays = random_arrays(config, pooler=family == "hf_bert")
    published = {PREFIX[family] + k: v for k, v in arrays.items()}
    if old_names:
        published = {
            re.sub("orm.bias$", "orm.beta", re.sub("orm.weight$", "orm.gamma", k)): v for k, v in published.items()
        }
    head = {"hf_bert": "cls.predictions.bias", "hf_distilbert": "vocab_projector.bias"}[family]
    published |= {f"{PREFIX[family]}embeddings.position_ids": np.arange(12, dtype=np.int64)[None], head: np.ones(50)}
    file = torch_writer.save(tmp_path / "pytorch_model.bin", torch_writer.Ordered(published))
    with pytest.raises(InputError, match="heads"):
        convert.convert(family, file, tmp_path / "w", say=quiet)
    (tmp_path / "config.json").write_text(json.dumps(bert.hf_config(config)))
    convert.convert(family, file, tmp_path / "w", say=quiet)
    _, info = load_weights(tmp_path / "w")
    assert set(info["report"]["dropped"]) == {
        f"{PREFIX[family]}embeddings.position_ids".removeprefix(PREFIX[family]),
        head,
    }
    out = convert.reverse(family, tmp_path / "w", tmp_path / "out", say=quiet)
    got, _ = read_safetensors(out)
    assert got.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(got[name], value)
    convert.convert(family, out, tmp_path / "again", say=quiet)  # with the config.json that was written beside it
    again, _ = load_weights(tmp_path / "again")
    first, _ = load_weights(tmp_path / "w")
    assert again.keys() == first.keys()


def test_wrong_files_are_one_line(tmp_path):
    def refused(arrays, match, family="hf_bert", config=None):
        file = tmp_path / "model.safetensors"
        write_safetensors(file, arrays)
        (tmp_path / "config.json").write_text(json.dumps({**bert.hf_config(CONFIGS[family]), **(config or {})}))
        with pytest.raises(InputError, match=match) as error:
            convert.convert(family, file, tmp_path / "w", say=quiet)
        assert "\n" not in str(error.value)

    arrays = random_arrays(TINY)
    refused(random_arrays(TINY_DISTIL), "BertModel")
    refused(arrays, "DistilBertModel", "hf_distilbert")
    refused(arrays, "gelu_new", config={"hidden_act": "gelu_new"})
    refused(arrays, "relative_key", config={"position_embedding_type": "relative_key"})
    refused(
        {k: v for k, v in arrays.items() if "layer.1.output.dense.bias" not in k}, "missing.*layer.1.output.dense.bias"
    )
    refused({**arrays, "encoder.odd": np.ones(3, np.float32)}, "unused.*encoder.odd")
    refused({**arrays, "bert.embeddings.LayerNorm.bias": np.ones(16, np.float32)}, "with and without bert.")
    refused({"a": np.ones(3, np.float32)}, "word_embeddings")
