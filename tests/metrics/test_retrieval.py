from __future__ import annotations

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.metrics import retrieval as M

BOTH = ("t2v", "v2t")


def values(metrics, way):
    return tuple(metrics[f"{way}/{name}"] for name in ("R@1", "R@5", "R@10", "MdR", "MnR"))


def official_single(sim):
    """The published computation: positions of the gold value in each sorted row."""
    sorted_rows = np.sort(-sim, axis=1)
    gold = np.diag(-sim)[:, None]
    return np.where(sorted_rows - gold == 0)[1]


def test_perfect():
    metrics = M.single_caption_metrics(np.eye(6))
    for way in BOTH:
        assert values(metrics, way) == (100, 100, 100, 1, 1)
        assert metrics[f"{way}/tie_share"] == 0


def test_every_gold_is_second():
    sim = 0.5 * np.eye(12) + np.roll(np.eye(12), 1, axis=1)
    metrics = M.single_caption_metrics(sim)
    for way in BOTH:
        assert values(metrics, way) == (0, 100, 100, 2, 2)


def test_median_of_an_even_number_and_direction():
    # t2v ranks 0, 1, 0, 3; v2t ranks 0, 0, 2, 0 by hand
    sim = np.array([[9, 1, 8.0, 0], [7, 6, 5, 0], [1, 2, 7, 0.5], [6, 5, 4, 3]])
    metrics = M.single_caption_metrics(sim)
    assert metrics["t2v/MdR"] == 1.5
    assert metrics["t2v/MnR"] == 2
    assert metrics["t2v/R@1"] == 50
    assert metrics["v2t/R@1"] == 75
    assert metrics["v2t/MnR"] == 1.25


def test_official_ties_repeat_positions():
    rng = np.random.default_rng(0)
    sim = rng.integers(0, 4, (9, 9)).astype(float)
    ranks = M.apply_ties(*M.gold_ranks(sim, np.arange(9)), "official")
    np.testing.assert_array_equal(ranks, official_single(sim))
    distinct = rng.permutation(81).reshape(9, 9).astype(float)
    for rule in M.TIE_RULES:
        np.testing.assert_array_equal(
            M.apply_ties(*M.gold_ranks(distinct, np.arange(9)), rule), official_single(distinct)
        )
    with pytest.raises(InputError, match="ties"):
        M.single_caption_metrics(sim, ties="lucky")


def test_constant_scores():
    sim = np.zeros((50, 50))
    assert M.single_caption_metrics(sim)["t2v/R@1"] == 100
    pessimistic = M.single_caption_metrics(sim, ties="pessimistic")
    assert values(pessimistic, "t2v") == (0, 0, 0, 50, 50)
    assert M.single_caption_metrics(sim, ties="official")["t2v/R@1"] == 2
    assert pessimistic["t2v/tie_share"] == 1
    assert "100.0 %" in M.tie_warning(pessimistic)


def test_tie_warning_starts_above_one_percent():
    clean = {"t2v/tie_share": 0.01, "v2t/tie_share": 0.0}
    assert M.tie_warning(clean) is None
    assert M.tie_warning({**clean, "v2t/tie_share": 0.011}) is not None


@pytest.mark.parametrize("ties", M.TIE_RULES)
def test_one_caption_a_video_in_any_order_equals_single(ties):
    rng = np.random.default_rng(1)
    sim = rng.normal(size=(21, 21))
    order = rng.permutation(21)
    single, multi = M.single_caption_metrics(sim, ties=ties), M.multi_caption_metrics(sim[order], order, ties=ties)
    assert all(multi[name] == value for name, value in single.items())


def test_several_captions_by_hand():
    # videos 0, 1; captions 0, 1 of video 0 and 2, 3 of video 1
    sim = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.4], [0.6, 0.5]])
    owner = [0, 0, 1, 1]
    metrics = M.multi_caption_metrics(sim, owner)
    # t2v ranks 0, 1, 0, 1: the lower median is 0
    assert metrics["t2v/R@1"] == 50
    assert metrics["t2v/MdR"] == 1
    assert metrics["t2v/MnR"] == 1.5
    assert metrics["t2v/StdR"] == 0.5
    # v2t: video 0 scores its group 0.9 against 0.6, video 1 scores its own 0.5 against 0.8
    np.testing.assert_array_equal(M.group_scores(sim, np.array(owner)), [[0.9, 0.6], [0.8, 0.5]])
    assert metrics["v2t/R@1"] == 50
    assert metrics["v2t/MnR"] == 1.5


def test_nan_is_the_worst_score():
    sim = np.eye(3)
    sim[0, 1] = np.nan
    assert M.single_caption_metrics(sim)["t2v/R@1"] == 100
    sim[0, 0] = np.nan
    assert M.single_caption_metrics(sim, ties="pessimistic")["t2v/MnR"] == pytest.approx((3 + 1 + 1) / 3)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("multi", [False, True])
def test_chunks_of_embeddings_equal_the_whole_matrix(chunk, multi):
    rng = np.random.default_rng(2)
    owner = np.concatenate([np.arange(10), rng.integers(0, 10, 20)]) if multi else None
    text = rng.integers(-2, 3, (30 if multi else 10, 3)).astype(np.float32)  # small integers: exact, with ties
    video = rng.integers(-2, 3, (10, 3)).astype(np.float32)
    sim = text @ video.T
    expected = M.multi_caption_metrics(sim, owner) if multi else M.single_caption_metrics(sim)
    assert expected["t2v/tie_share"] > 0
    assert M.embedding_metrics(text, video, owner, chunk=chunk) == expected


def test_chance_is_what_random_scores_give():
    rng = np.random.default_rng(3)
    expected = M.chance(40)
    runs = [M.single_caption_metrics(rng.normal(size=(40, 40))) for _ in range(200)]
    assert np.mean([r["t2v/R@5"] for r in runs]) == pytest.approx(expected["R@5"], abs=1)
    assert np.mean([r["t2v/MnR"] for r in runs]) == pytest.approx(expected["MnR"], abs=0.5)
    assert expected["R@1"] == 2.5
    assert M.chance(4)["R@10"] == 100


@pytest.mark.parametrize("owner", [[0, 0], [0, 2, 1], [0, 0, 0], [0, 1]])
def test_bad_owner(owner):
    with pytest.raises(InputError, match="video_of_text"):
        M.multi_caption_metrics(np.zeros((3, 2)), owner)


def test_bad_shapes():
    with pytest.raises(InputError, match="square"):
        M.single_caption_metrics(np.zeros((3, 2)))
    with pytest.raises(InputError, match="captions"):
        M.embedding_metrics(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="empty"):
        M.single_caption_metrics(np.zeros((0, 0)))
