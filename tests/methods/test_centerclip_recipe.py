"""The configs of the published tables say what their names say."""

from __future__ import annotations

import re

import jax.numpy as jnp
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim
from jaxvl.core.errors import InputError
from jaxvl.methods.centerclip import recipe
from jaxvl.methods.centerclip.method import model_config
from jaxvl.methods.centerclip.reduce import ALGORITHMS
from tests import golden_update as golden

ROWS = [e for e in golden.experiments() if e.file.parent.name == "centerclip" and e.name]


def block(width):  # query, key, value, output; two layers of 4 widths; two norms
    return 4 * (width * width + width) + (4 * width * width + 4 * width) + (4 * width * width + width) + 4 * width


def clip(patch):
    vision = (
        3 * patch**2 * 768 + 768 + ((224 // patch) ** 2 + 1) * 768 + 2 * 768 + 12 * block(768) + 2 * 768 + 768 * 512
    )
    text = 49408 * 512 + 77 * 512 + 12 * block(512) + 2 * 512 + 512 * 512
    return vision + text + 1


POOLER = 2 * 512 + 512 * 512 + 512
HEADS = {
    "meanP": 0,
    "seqTransf": 77 * 512 + 4 * block(512),
    "seqLSTM": 2 * 512 * 4 * 512 + 2 * 4 * 512,
    "tightTransf": 77 * 512 + 4 * block(512) + POOLER + 512 + 1,
}


def test_parameter_counts_by_hand():
    assert (clip(32), clip(16)) == (151_277_313, 149_620_737)


@pytest.mark.parametrize("row", ROWS, ids=lambda e: e.golden)
def test_a_row_is_what_its_name_says(row):
    c = row.load()
    # the committed count: `test_configs.py` shows that it is the count of this config
    assert golden.committed(row.golden)["count"] == clip(32 if "b32" in row.name else 16) + HEADS[c.model.head]
    named = re.search(r"_b(\d+)_(\d+)_(\d+)", row.name)
    plan = model_config(c).plan
    assert [(p.after, p.frames_after, p.tokens_after) for p in plan] == (
        [tuple(map(int, named.groups()))] if named else []
    )
    algorithm = c.model.reduce.algorithm
    assert algorithm == (
        "kmedoids++" if "kmedoids" in row.name else next((a for a in ALGORITHMS if a in row.name), "none")
    )
    assert (algorithm == "none") == ("meanp" in row.name or "clip4clip" in row.name)
    assert (c.model.reduce.metric == "l1") == row.name.endswith("_l1")
    assert c.data.batch_size == 128
    assert c.train.eval_epochs == 1
    assert c.init.required
    assert c.data.records.fps == c.data.fps == (1.0 if "clip4clip" in row.name else 3.0)


@pytest.mark.parametrize("row", ROWS, ids=lambda e: e.golden)
def test_published_numbers_are_a_table(row):
    numbers = golden.load_file(row.file).EXPERIMENTS[row.name]
    for side in filter(None, (numbers.t2v, numbers.v2t) if numbers else ()):
        assert list(side[:3]) == sorted(side[:3])
        assert all(0 < r < 100 for r in side[:3])
        assert len(side) in (1, 3, 5)
    assert numbers is None or (numbers.memory_gb is None) == (numbers.ms is None)


@pytest.mark.parametrize(
    ("file", "pairs", "steps", "clip_rate", "frames", "words"),
    [
        ("msrvtt.py", 180_000, 5 * 1406, 5e-6, 12, 32),
        ("msrvtt.py:7k_b32_kmedoids_b7_4_49", 140_200, 5 * 1095, 5e-6, 12, 32),
        ("msvd.py", 48_800, 5 * 381, 5e-6, 12, 32),
        ("lsmdc.py", 101_000, 5 * 789, 5e-6, 12, 32),
        ("activitynet.py", 10_009, 8 * 78, 1e-5, 60, 77),
        ("didemo.py", 8_400, 8 * 65, 1e-5, 60, 77),
        ("msrvtt.py:9k_b32_clip4clip_seqtransf", 180_000, 5 * 1406, 1e-7, 12, 32),
    ],
)
def test_recipe_of_a_data_set(file, pairs, steps, clip_rate, frames, words):
    c = configs.load(golden.ROOT / "configs" / "centerclip" / file)
    c = configs.with_length(c, pairs // c.data.batch_size)
    assert (c.train.steps, c.data.frames, c.data.max_words) == (steps, frames, words)
    main = optim.build(c.optim.main, steps)
    highest = float(max(main.rate(jnp.int32(t)) for t in range(steps // 10 - 1, steps // 10 + 2)))
    assert highest * main.multiplier("visual/proj") == pytest.approx(clip_rate, rel=2e-3)
    assert highest * main.multiplier("logit_scale") == pytest.approx(clip_rate, rel=2e-3)
    assert highest * main.multiplier("head/lstm_visual/bias_ih_l0") == pytest.approx(1000 * clip_rate, rel=2e-3)
    kept = [k for k in ("visual/ln_post/scale", "text/positional_embedding", "head/lstm_visual/bias_ih_l0",
                        "visual/resblocks_0/attn/query/bias") if not re.search(c.optim.main.no_decay, k)]  # fmt: skip
    assert kept == ["visual/ln_post/scale", "text/positional_embedding"]  # decayed


def test_bert_adam_s_schedule():
    """x/0.1 up to x = 0.1, then the cosine that was running all along: from 1 to 0.976 at once."""
    c = recipe.clip4clip()
    rate = optim.build(c.optim.main, 1000).rate
    got = [float(rate(jnp.int32(t))) / 1e-4 for t in (0, 50, 99, 100, 500, 1000)]
    assert got == pytest.approx([0, 0.5, 0.99, 0.97553, 0.5, 0], abs=2e-5)


def test_train_lists_follow_the_name():
    for name, csv in (("9k_b16_meanp", "MSRVTT_train.9k.csv"), ("7k_b32_kmedoids_b7_4_49", "MSRVTT_train.7k.csv")):
        assert configs.load(f"{golden.ROOT}/configs/centerclip/msrvtt.py:{name}").data.train_csv == csv


def test_unknown_names_give_the_nearest():
    with pytest.raises(
        InputError, match=r"'9k_b32_kmeans_b6_4_49': is not in this file; did you mean 9k_b32_kmedoids_b6"
    ):
        configs.load(f"{golden.ROOT}/configs/centerclip/msrvtt.py:9k_b32_kmeans_b6_4_49")
    with pytest.raises(InputError, match=r"there are b32_meanp, "):
        configs.load(f"{golden.ROOT}/configs/centerclip/didemo.py:zzz")
    for wrong in ("b64_meanp", "b32_meanp_b6_4", "b32_seqtransf", "b32_clip4clip_max"):
        with pytest.raises(InputError, match="experiment"):
            recipe.experiment(wrong)
    with pytest.raises(InputError, match="algorithm"):
        model_config(recipe.experiment("b32_kmeans_b6_4_49"))
