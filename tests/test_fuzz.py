"""The generators of the fuzz command know what is right: on whole inputs they say so, and nothing is silent."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fuzz import (
    COUNTED,
    LINE,
    RIGHT,
    SILENT,
    TRACEBACK,
    annotations,
    media,
    pictures,
    poses,
    rooms,
    skeletons,
    weights,
    words,
)
from benchmarks.fuzz.outcome import Case


@pytest.mark.parametrize(
    "generator", [media, pictures, annotations, skeletons, poses, weights], ids=lambda m: m.__name__
)
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


def test_command_lines_with_letters_changed_end_in_one_line_or_are_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for case in words.scrambled(tmp_path, np.random.default_rng(0), 12):
        outcome, detail = case.run()
        assert rooms.judged(outcome, case) in (RIGHT, LINE), f"{case.name}: {outcome} {detail}"
        found.append(outcome)
    assert found.count("refused") > 6  # there is no workdir here


def test_an_outcome_that_a_case_does_not_expect_is_silent():
    case = Case("a value that no field may hold", lambda: ("accepted", ""))
    assert rooms.judged("accepted", case) == SILENT
    assert rooms.judged("accepted", case._replace(expects=("accepted",))) == RIGHT
    assert rooms.judged("traceback", case) == TRACEBACK
    assert rooms.judged("older", case._replace(expects=("older",))) == COUNTED
