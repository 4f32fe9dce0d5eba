from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxvl.core.errors import InputError
from jaxvl.data.sampling import (
    FIXED,
    SAMPLERS,
    frame_order,
    get_sampler,
    multi_segment,
    stratified,
    uniform,
    valid_mask,
)


@pytest.mark.parametrize(
    ("count", "frames", "want"),
    [
        (12, 13, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]),
        (3, 12, [2, 6, 10]),
        (12, 5, [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]),
        (10, 48, [2, 7, 12, 16, 21, 26, 31, 36, 40, 45]),
        (1, 1, [0]),
        (4, 4, [0, 1, 2, 3]),
    ],
)
def test_uniform_known_answers(count, frames, want):
    assert uniform(count, frames).tolist() == want


def test_multi_segment_published_behaviour():
    draws = np.stack([multi_segment(12, 35, np.random.default_rng(seed)) for seed in range(200)])
    assert draws.max() == 23  # n = 35, T = 12: segments of 2 frames, the last 11 frames are never used
    np.testing.assert_array_equal(draws // 2, np.tile(np.arange(12), (200, 1)))
    assert set(np.unique(draws)) == set(range(24))
    np.testing.assert_array_equal(multi_segment(12, 23, np.random.default_rng(0)), np.arange(12))
    np.testing.assert_array_equal(multi_segment(12, 5, np.random.default_rng(0)), uniform(12, 5))


@pytest.mark.parametrize(
    ("name", "frames", "want"),
    [
        ("linspace", 10, [0, 3, 6, 9]),
        ("linspace", 31, [0, 10, 20, 30]),
        ("linspace", 7, [0, 2, 4, 6]),
        ("linspace", 6, [0, 1, 3, 5]),  # 5/3 and 10/3 are cut
        ("head", 10, [0, 1, 2, 3]),
        ("tail", 10, [6, 7, 8, 9]),
        *((name, 3, [0, 1, 2, 2]) for name in ("linspace", "head", "tail")),
        *((name, 4, [0, 1, 2, 3]) for name in ("linspace", "head", "tail")),
    ],
)
def test_clip4clip_rules(name, frames, want):
    assert get_sampler(name)(4, frames, None).tolist() == want


def test_orders_move_valid_frames_only():
    mask = np.arange(6) < 4
    rng = np.random.default_rng(0)
    assert frame_order("forward", mask, rng).tolist() == [0, 1, 2, 3, 4, 5]
    assert frame_order("reversed", mask, rng).tolist() == [3, 2, 1, 0, 4, 5]
    draws = [frame_order("random", mask, rng).tolist() for _ in range(200)]
    assert all(sorted(d[:4]) == [0, 1, 2, 3] and d[4:] == [4, 5] for d in draws)
    assert len({tuple(d) for d in draws}) == 24


def test_fixed_rules_draw_nothing():
    for name, rule in SAMPLERS.items():
        if name in FIXED:
            rule(3, 30, None)
        else:
            with pytest.raises(ValueError, match="Generator"):
                rule(3, 30, None)


def test_stratified_reaches_every_frame():
    draws = np.stack([stratified(12, 35, np.random.default_rng(seed)) for seed in range(400)])
    assert set(np.unique(draws)) == set(range(35))
    edges = np.arange(13) * 35 // 12
    assert (draws >= edges[:-1]).all()
    assert (draws < edges[1:]).all()


@given(st.sampled_from(sorted(SAMPLERS)), st.integers(1, 40), st.integers(1, 200), st.integers(0, 9))
def test_every_rule_is_ordered_in_range_and_seeded(name, count, frames, seed):
    rule = get_sampler(name)
    picks = rule(count, frames, np.random.default_rng(seed))
    assert picks.shape == (count,)
    assert picks.dtype == np.int64
    assert picks.min() >= 0
    assert picks.max() < frames
    np.testing.assert_array_equal(picks, rule(count, frames, np.random.default_rng(seed)))
    valid = picks[valid_mask(count, frames)]
    assert len(valid) == min(count, frames)
    assert (np.diff(valid) > 0).all()
    assert (picks[len(valid) :] == frames - 1).all()


def test_unknown_rule_names_the_nearest():
    with pytest.raises(InputError, match="'stratfied': did you mean 'stratified'"):
        get_sampler("stratfied")
