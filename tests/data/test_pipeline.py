from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.bad_media import BadBudget
from jaxvl.data.pipeline import eval_batches, train_batches
from jaxvl.data.video import load_clip
from tests.data import media_files as mf


@dataclasses.dataclass(frozen=True)
class Rows:
    source: Any
    make: Callable
    id_of: Callable
    batch_size: int


def make_number(record, rng):
    if record in BAD:
        raise BadMedia(f"/media/{record}.mp4", "broken")
    return {"x": np.full((2,), record, np.int32), "noise": rng.random(3), "_name": f"name {record}"}


def make_clip(path, rng):
    clip = load_clip(path, num_frames=3, image_size=32, sampling="official", rng=rng)
    return {"video": clip.frames, "mask": clip.mask, "_times": clip.times}


BAD: frozenset[int] = frozenset()


@pytest.fixture
def bad(monkeypatch):
    return lambda *records: monkeypatch.setitem(globals(), "BAD", frozenset(records))


def numbers(count=10, batch_size=4):
    return Rows(list(range(count)), make_number, str, batch_size)


def take(stream, count):
    out = list(itertools.islice(stream, count))
    stream.close()
    return out


def assert_same(a, b):
    assert len(a) == len(b)
    for one, two in zip(a, b):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_epochs_are_complete_and_shuffled_anew():
    batches = take(train_batches(numbers(), seed=1), 10)  # 40 rows: 4 epochs of 10
    order = np.concatenate([b["x"][:, 0] for b in batches]).reshape(4, 10)
    assert (np.sort(order) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in order}) == 4
    assert [b["_id"] for b in batches[:2]] == [[str(n) for n in b["x"][:, 0]] for b in batches[:2]]
    assert batches[0]["_name"] == [f"name {n}" for n in batches[0]["x"][:, 0]]
    assert batches[0]["_replaced"].tolist() == [0] * 4
    assert batches[0]["_replaced"].dtype == np.int32


def test_randomness_belongs_to_example_and_epoch():
    batches = take(train_batches(numbers(4, 4), seed=1), 2)
    by_record = [{int(n): tuple(z) for n, z in zip(b["x"][:, 0], b["noise"])} for b in batches]
    assert all(by_record[0][n] != by_record[1][n] for n in range(4))
    # the same example in the same epoch draws the same, whatever the batch size
    other = take(train_batches(numbers(4, 2), seed=1), 4)
    again = [{int(n): tuple(z) for b in other[i : i + 2] for n, z in zip(b["x"][:, 0], b["noise"])} for i in (0, 2)]
    assert again == by_record
    assert take(train_batches(numbers(4, 4), seed=2), 1)[0]["noise"].tolist() != batches[0]["noise"].tolist()


def test_seeds_change_the_order():
    orders = {tuple(take(train_batches(numbers(50, 50), seed=s), 1)[0]["_id"]) for s in (0, 1, 2**32, 2**32 + 1)}
    assert len(orders) == 4


@pytest.mark.parametrize("start", [0, 1, 5, 13])
def test_resumes_by_one_integer(start):
    every = take(train_batches(numbers(), seed=3), 16)
    assert_same(take(train_batches(numbers(), seed=3, start=start), 3), every[start : start + 3])


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 3], [1, 2]], [[0, 1, 2, 3], [1, 2], [3]]])
def test_processes_read_rows_of_the_same_global_batches(shares):
    """In process order, as a torus lays them out, and with rows that several have."""
    whole = take(train_batches(numbers(), seed=3, start=2), 5)
    for rows in shares:
        for part, batch in zip(take(train_batches(numbers(), seed=3, start=2, rows=rows), 5), whole):
            np.testing.assert_array_equal(part["noise"], batch["noise"][rows])
            assert part["_id"] == [batch["_id"][r] for r in rows]


@pytest.mark.parametrize("threads", [0, 3])
def test_threads_change_nothing(threads):
    assert_same(
        take(train_batches(numbers(), seed=3, num_threads=threads), 6), take(train_batches(numbers(), seed=3), 6)
    )


def test_source_smaller_than_a_batch():
    batch = take(train_batches(numbers(3, 8), seed=0), 1)[0]
    assert batch["x"].shape == (8, 2)
    assert sorted(batch["x"][:3, 0]) == [0, 1, 2]


def test_bad_media_is_replaced_deterministically_and_logged(bad, tmp_path):
    bad(3, 7)
    log = tmp_path / "logs" / "bad_inputs.jsonl"
    batches = take(train_batches(numbers(), seed=5, bad_log=log), 10)
    rows = np.concatenate([b["x"][:, 0] for b in batches])
    replaced = np.concatenate([b["_replaced"] for b in batches])
    assert not {3, 7} & set(rows.tolist())
    assert replaced.sum() == 8  # 4 epochs of two bad files
    bad()
    clean = np.concatenate([b["x"][:, 0] for b in take(train_batches(numbers(), seed=5), 10)])
    np.testing.assert_array_equal(np.isin(clean, [3, 7]), replaced.astype(bool))
    np.testing.assert_array_equal(clean[replaced == 0], rows[replaced == 0])
    bad(3, 7)
    assert_same(take(train_batches(numbers(), seed=5), 10), batches)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(lines, key=lambda d: d["id"]) == [
        {"id": str(n), "path": f"/media/{n}.mp4", "reason": "broken"} for n in (3, 7)
    ]


def test_bad_media_can_stop_the_run(bad):
    bad(3)
    with pytest.raises(InputError, match=r"example 3: /media/3\.mp4: broken; .*config\.pipeline\.on_error"):
        take(train_batches(numbers(), seed=5, on_error="raise"), 5)
    with pytest.raises(InputError, match="example 3"):
        list(eval_batches(numbers(), on_error="raise"))


@pytest.mark.parametrize("count", [1, 6])
def test_a_folder_of_nothing_but_bad_media_stops(bad, count):
    bad(*range(count))
    with pytest.raises(InputError, match=r"/media/\d\.mp4: broken; and no other record"):
        take(train_batches(numbers(count, 2), seed=5), 1)
    with pytest.raises(InputError, match="records tried can be decoded"):
        list(eval_batches(numbers(count, 2)))


def test_evaluation_is_one_ordered_pass_with_padding():
    batches = list(eval_batches(numbers()))
    assert np.concatenate([b["x"][b["_valid"], 0] for b in batches]).tolist() == list(range(10))
    assert [b["_valid"].tolist() for b in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert batches[-1]["x"][:, 0].tolist() == [8, 9, 9, 9]
    assert batches[-1]["_id"] == ["8", "9", "9", "9"]
    assert [b["_bad"].tolist() for b in batches] == [[False] * 4] * 3
    assert_same(list(eval_batches(numbers(), num_threads=3)), batches)


def test_evaluation_randomness_is_fixed_by_seed_and_record():
    draw = lambda size: [b["noise"][b["_valid"]] for b in eval_batches(numbers(10, size), seed=4)]  # noqa: E731
    np.testing.assert_array_equal(np.concatenate(draw(4)), np.concatenate(draw(5)))


@pytest.mark.parametrize("count", [10, 9, 3])
@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 2], [1, 3]]])
def test_evaluation_processes_see_each_example_once(count, shares):
    whole = list(eval_batches(numbers(count, 4)))
    parts = [list(eval_batches(numbers(count, 4), rows=rows)) for rows in shares]
    seen = [n for part in parts for b in part for n in b["x"][b["_valid"], 0]]
    assert sorted(seen) == list(range(count))
    for part, rows in zip(parts, shares):
        assert len(part) == len(whole) == -(-count // 4)
        for b, every in zip(part, whole):
            assert b["x"].shape == (2, 2)
            np.testing.assert_array_equal(b["_valid"], every["_valid"][rows])
            np.testing.assert_array_equal(b["noise"][b["_valid"]], every["noise"][rows][b["_valid"]])


def test_evaluation_never_replaces_bad_media(bad, tmp_path):
    bad(1, 4, 5, 6, 7)  # the whole second batch
    batches = list(eval_batches(numbers(), bad_log=tmp_path / "bad.jsonl"))
    assert [b["_bad"].sum() for b in batches] == [1, 4, 0]
    assert np.concatenate([b["x"][b["_valid"], 0] for b in batches]).tolist() == [0, 2, 3, 8, 9]
    assert batches[0]["_id"] == ["0", "1", "2", "3"]
    assert batches[1]["x"].shape == (4, 2)
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 5


def unequal(record, rng):
    return {"x": np.zeros((record % 2 + 1,))}


def odd_fields(record, rng):
    return {"x": np.zeros(1), f"y{record % 2}": np.zeros(1)}


def clashing(record, rng):
    return {"_valid": 1}


def wrong_input(record, rng):
    raise InputError("config.model.frames is wrong")


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__("text")


def bug(record, rng):
    raise ZeroDivisionError("a bug")


def odd_bug(record, rng):
    raise Unpicklable(1, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (unequal, InputError, r"examples \d and \d cannot share a batch: field 'x' is float64 \[\d\] and"),
        (odd_fields, InputError, r"examples \d and \d: only one has the field 'y0'"),
        (clashing, ValueError, r"the field _valid is the pipeline's own"),
        (wrong_input, InputError, r"^example \d: config\.model\.frames is wrong"),
        (bug, ZeroDivisionError, "a bug"),
        (odd_bug, RuntimeError, r"Unpicklable: text \(while making example \d\)"),
    ],
)
def test_errors_carry_the_example(make, error, message):
    examples = dataclasses.replace(numbers(), make=make)
    for open_stream in (lambda: train_batches(examples, seed=0), lambda: eval_batches(examples)):
        with pytest.raises(error, match=message) as caught:
            next(open_stream())
        if error is ZeroDivisionError:
            assert any("while making example" in note for note in caught.value.__notes__)


def test_impossible_requests():
    with pytest.raises(InputError, match="no examples"):
        train_batches(numbers(0), seed=0)
    for rows in ([], [1, 0], [1, 1], [-1, 0], [3, 4]):
        with pytest.raises(ValueError, match="of a batch of 4"):
            train_batches(numbers(), seed=0, rows=rows)
    with pytest.raises(InputError, match=r"config\.pipeline\.on_error is 'ignore'"):
        eval_batches(numbers(), on_error="ignore")


def test_budget():
    budget = BadBudget(0.1, min_seen=50, bad_log="/runs/bad_inputs.jsonl")
    budget.add(40, 40)
    with pytest.raises(InputError, match=r"41 of 60 examples \(68\.3 %\).*max_bad_fraction = 0\.1.*bad_inputs\.jsonl"):
        budget.add(20, 1)
    fine = BadBudget(0.1)
    fine.add(100, 10)
    fine.finish()
    short = BadBudget(0.0)
    short.add(3, 1)
    with pytest.raises(InputError, match="1 of 3"):
        short.finish()
    with pytest.raises(InputError, match="between 0 and 1"):
        BadBudget(5)


@pytest.fixture(scope="module")
def videos(media, tmp_path_factory):
    """Six videos that show 0.., 32.., 64.. and so on; the fourth is truncated."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [mf.write_video(folder / f"v{i}.mp4", 12, gop=4, start=32 * i) for i in range(6)]
    shutil.copy(media.truncated, paths[3])
    return paths


def test_real_videos_give_the_same_batches_in_threads_and_in_a_worker(videos, tmp_path):
    examples = Rows(videos, make_clip, os.path.basename, 4)
    log = tmp_path / "bad.jsonl"
    here = take(train_batches(examples, seed=2, start=1, num_threads=2, bad_log=log), 3)
    for batch in here:
        for name, frames, times in zip(batch["_id"], batch["video"], batch["_times"]):
            shown = np.array(mf.counters(frames))
            assert (shown // 32 == int(name[1])).all()
            np.testing.assert_allclose(shown % 32 / 8, times)
    there = take(train_batches(examples, seed=2, start=1, num_workers=1, bad_log=log), 3)
    assert_same(here, there)
    assert sum(b["_replaced"].sum() for b in here) >= 1
    assert {json.loads(line)["id"] for line in log.read_text().splitlines()} == {"v3.mp4"}


def test_errors_in_a_worker_arrive_with_their_type_and_example(videos):
    examples = Rows(videos, make_clip, os.path.basename, 3)
    with pytest.raises(InputError, match=r"example v3\.mp4: .*v3\.mp4: truncated"):
        list(eval_batches(examples, num_workers=1, on_error="raise"))


class Blocks:
    """Ten records of one part, three of another; eight rows of the first and four of the second in every batch."""

    source, batch_size, blocks = list(range(13)), 12, ((10, 8), (3, 4))
    id_of = staticmethod(str)

    @staticmethod
    def make(record, rng):
        return {"x": np.int32(record), "draw": rng.random()}


def test_blocks_have_fixed_rows_and_epochs_of_their_own():
    stream = train_batches(Blocks(), seed=1)
    batches = [next(stream)["x"] for _ in range(15)]
    first, second = (np.concatenate([b[s] for b in batches]) for s in (slice(8), slice(8, None)))
    assert (first < 10).all()
    assert (second >= 10).all()
    assert all(set(first[i : i + 10]) == set(range(10)) for i in range(0, 120, 10))  # each epoch has every record once
    assert all(set(second[i : i + 3]) == {10, 11, 12} for i in range(0, 60, 3))
    assert len({tuple(first[i : i + 10]) for i in range(0, 120, 10)}) > 6  # and is shuffled anew


def test_blocks_resume_and_are_shared_by_processes():
    whole = train_batches(Blocks(), seed=1)
    batches = [next(whole) for _ in range(6)]
    later = train_batches(Blocks(), seed=1, start=4)
    np.testing.assert_array_equal(next(later)["draw"], batches[4]["draw"])
    for rows in ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [1, 7, 8, 11]):
        share = train_batches(Blocks(), seed=1, rows=rows)
        for batch in batches:
            np.testing.assert_array_equal(next(share)["x"], batch["x"][rows])


def test_blocks_that_are_not_the_whole_are_refused():
    wrong = Blocks()
    wrong.blocks = ((10, 8), (3, 3))
    with pytest.raises(ValueError, match="13 records and 11 rows for 13 records and a batch of 12"):
        next(train_batches(wrong, seed=1))
    wrong.blocks = ((10, 8), (0, 4))
    with pytest.raises(InputError, match="no examples"):
        next(train_batches(wrong, seed=1))
