"""The generators of the fuzz command know what is right: on whole inputs they say so, and nothing is silent."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fuzz import COUNTED, LINE, RIGHT, annotations, media, pictures, skeletons, weights


@pytest.mark.parametrize("generator", [media, pictures, annotations, skeletons, weights], ids=lambda m: m.__name__)
def test_drawn_inputs_are_right_counted_or_one_line(tmp_path, generator):
    found = []
    for number in range(24):
        folder = tmp_path / str(number)
        folder.mkdir()
        what, outcome = generator.run(np.random.default_rng([0, number]), folder)
        assert outcome in (RIGHT, COUNTED, LINE), what
        found.append(outcome)
    assert RIGHT in found
    assert LINE in found
