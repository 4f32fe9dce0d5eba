"""MIST's evaluators and evidence on questions and pictures of an odd kind."""

import math

import numpy as np

from jaxvl.methods.mist import evaluator
from jaxvl.viz.evidence import top_tiles


def test_questions_of_star_without_a_published_answer_count_nowhere():
    """Those of its test split lie on a server: no score is not a score of 0."""
    fields = {"_groups": [{"type": (name,)} for name in ("Interaction", "Interaction", "Sequence")]}
    out = evaluator.star(np.eye(3), np.array([0, -1, 1]), fields)
    assert (out["Interaction"], out["Sequence"], out["mean"], out["micro"]) == (100.0, 0.0, 50.0, 50.0)
    assert all(math.isnan(v) for v in evaluator.star(np.eye(3), np.full(3, -1), fields).values())


def test_the_frame_as_one_more_region_is_drawn_around_the_whole_frame():
    """NExT-QA's released variant has 17 regions of 4 x 4 tiles."""
    shares = np.zeros(17)
    shares[16], shares[5] = 0.6, 0.4
    assert top_tiles(shares, 2) == [(16, (0.0, 0.0, 1.0, 1.0)), (5, (0.25, 0.25, 0.5, 0.5))]
    assert top_tiles(np.array([0.1, 0.2]), 1) == [(1, (0.0, 0.0, 1.0, 1.0))]
