"""The survey of published configs: which slices it compiles, what it keeps, and whose code that is of."""

import json

import pytest

from benchmarks import results
from benchmarks.pods import survey

GIB = 2**30
LIMIT = 15.0
PROGRAM = survey.Program("drdr/office31:uda_a_w", "drdr-0", (), ("adapt",), 1, True)


def report(topology, state, beside, limit=LIMIT, **more):
    """Of a device that holds `state` and `beside` it, in GiB."""
    needed = state + beside
    chips = survey.chips.parse(topology).chips
    return {
        "topology": {"name": topology, "chips": chips},
        "limit": {"bytes": limit * GIB},
        "state": {"parameters": state * GIB},
        "fits": needed <= limit,
        "line": "a line",
        "programs": [{"name": "objective adapt", "needed": needed * GIB, "fits": needed <= limit}],
        **more,
    }


@pytest.fixture
def compiles(monkeypatch):
    """`compiles(state, all) -> slices`, which fills up: reports of a state that all devices have, and of `all` GiB that
    they share; `refused`: slices whose evaluation cannot be spread."""

    def make(state, shared, refused=()):
        asked = []

        def compiled(root, key, name, topology, words=()):
            survey._file(root, key, topology).touch()
            if (topology, *words) not in asked:  # else it is read from its file
                asked.append((topology, *words))
            if topology in refused and not words:
                return {"refused": "batch size of stream 'test' (x) of the evaluation: 6 is not divisible"}
            return report(topology, state, shared / survey.chips.parse(topology).chips)

        monkeypatch.setattr(survey, "compiled", compiled)
        return asked

    return make


@pytest.mark.parametrize(
    ("state", "shared", "start", "asked", "least"),
    [
        (1, 4, "v5e:2x2", ["2x2"], "v5e:2x2"),  # one chip holds it by these figures
        (1, 15, "v5e:2x2", ["2x2", "1x1"], "v5e:2x2"),  # 16 of 15 GiB: not sure, and no
        (1, 80, "v5e:2x2", ["2x2", "2x4"], "v5e:2x4"),
        (1, 400, "v5e:2x2", ["2x2", "4x8"], "v5e:4x8"),  # far too much for all between
        (20, 4, "v5e:2x2", ["2x2", "2x4", "4x4", "4x8"], "v5e:4x8"),  # a state that is whole everywhere
        (1, 100, "v5e:4x8", ["4x8", "4x4", "2x4"], "v5e:2x4"),  # begun too large
    ],
)
def test_slices_that_cannot_hold_it_are_not_compiled(tmp_path, compiles, state, shared, start, asked, least):
    found = compiles(state, shared)
    assert survey.smallest(tmp_path, PROGRAM, start=start)["topology"]["name"] == least
    assert [topology.removeprefix("v5e:") for topology, *_ in found] == asked


def test_one_chip_is_compiled_where_that_is_asked(tmp_path, compiles):
    asked = compiles(1, 4)
    assert survey.smallest(tmp_path, PROGRAM, one=True)["topology"]["name"] == survey.ONE
    assert [topology for topology, *_ in asked] == [survey.FIRST, survey.ONE]


def test_an_evaluation_that_cannot_be_spread_leaves_the_updates(tmp_path, compiles):
    asked = compiles(1, 80, refused=("v5e:2x4",))
    assert survey.smallest(tmp_path, PROGRAM)["fits"]
    assert asked[1:3] == [("v5e:2x4",), ("v5e:2x4", "--objective", "adapt")]


def test_what_needs_most_is_tried_first_on_a_smaller_slice(tmp_path, compiles):
    asked = compiles(1, 120)  # 16 of 15 GiB on eight chips
    assert survey.smallest(tmp_path, PROGRAM, start="v5e:4x4")["topology"]["name"] == "v5e:4x4"
    assert asked == [("v5e:4x4",), ("v5e:2x4", "--objective", "adapt")]
    asked = compiles(1, 100)  # 13.5 of them: all is compiled at once
    assert survey.smallest(tmp_path, PROGRAM._replace(key="drdr-1"), start="v5e:4x4")["topology"]["name"] == "v5e:2x4"
    assert asked == [("v5e:4x4",), ("v5e:2x4",)]


def test_what_another_slice_would_hold():
    four = report("v5e:2x2", state=3, beside=2)
    assert survey._of_limit(four, "v5e:1x1") == pytest.approx((3 + 4 * 2) / LIMIT)
    assert survey._of_limit(four, "v5e:4x4") == pytest.approx((3 + 2 / 4) / LIMIT)
    spread = report("v5e:2x2", state=8, beside=-5)  # a program that holds less than the whole state
    assert survey._of_limit(spread, "v5e:1x1") == pytest.approx(3 / LIMIT)
    assert survey._of_limit({"refused": "a line"}, "v5e:1x1") == 1


def keep(root, topology, found, key=PROGRAM.key):
    survey._file(root, key, topology).write_text(json.dumps(found))


def test_the_smallest_that_holds_it_is_known(tmp_path):
    assert survey.known(tmp_path, PROGRAM) is None
    keep(tmp_path, "v5e:2x2", {"refused": "a line"})
    assert survey.known(tmp_path, PROGRAM) is None
    keep(tmp_path, "v5e:2x4", report("v5e:2x4", 20, 1))
    keep(tmp_path, "v5e:4x4", report("v5e:4x4", 20, 0))
    assert survey.known(tmp_path, PROGRAM)["topology"]["name"] == "v5e:4x4"  # none does: the last one
    keep(tmp_path, "v5e:4x4", report("v5e:4x4", 1, 1))
    keep(tmp_path, "v5e:4x8", report("v5e:4x8", 1, 1))
    assert survey.known(tmp_path, PROGRAM)["topology"]["name"] == "v5e:4x4"
    keep(tmp_path, "v5e:2x2", report("v5e:2x2", 1, 1), f"{PROGRAM.key}.updates")
    assert survey.known(tmp_path, PROGRAM)["topology"]["name"] == "v5e:2x2"


def test_what_the_results_hold_is_laid_back(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    survey.restore(tmp_path / "none")  # no results yet
    raw = [{"file": f"{n}.v5e_2x2.json", "report": {"code": n}} for n in ("a", "b")]
    (tmp_path / "pods.json").write_text(json.dumps({"raw": raw}))
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.v5e_2x2.json").write_text("mine")
    survey.restore(root)
    assert {p.name: p.read_text() for p in root.iterdir()} == {
        "a.v5e_2x2.json": "mine",
        "b.v5e_2x2.json": '{"code": "b"}',
    }


def test_exchanges_and_copies_are_kept_as_sums():
    whole = {
        **{name: name for name in survey.READ_OF_PROGRAM},
        "collectives": [{"op": "all-reduce", "count": 2, "bytes": 30}, {"op": "all-gather", "count": 1, "bytes": 4}],
        "relayouts": {"bytes": 7, "largest": ["x"]},
        "donation": {"lost": 0},
    }
    assert survey._read_of(whole) == {
        **{name: name for name in survey.READ_OF_PROGRAM},
        "collectives": [{"count": 3, "bytes": 34}],
        "relayouts": {"bytes": 7},
    }
    error = {"name": "predict", "needed": None, "fits": False, "seconds": {}, "error": "RESOURCE_EXHAUSTED"}
    assert survey._read_of(error) == error


def test_a_report_says_of_which_code_it_is(tmp_path, monkeypatch):
    """From the command's answer to the note and the results file."""
    answer = report("v5e:2x2", 1, 1)
    done = survey.subprocess.CompletedProcess([], 0, json.dumps(answer), "")
    monkeypatch.setattr(survey.subprocess, "run", lambda *_, **__: done)
    now = survey.code_of("drdr")
    assert survey.compiled(tmp_path, PROGRAM.key, PROGRAM.name, "v5e:2x2") == {**answer, "code": now}
    path = survey._file(tmp_path, PROGRAM.key, "v5e:2x2")
    assert survey._report(path, whole=False)["code"] == now
    assert survey._of_other_code(tmp_path, [PROGRAM]) == []
    keep(tmp_path, "v5e:2x2", {**answer, "code": "another"})
    assert survey._of_other_code(tmp_path, [PROGRAM]) == [
        "",
        "Compiled from other code than today's: 1 of drdr/office31.",
    ]
    keep(tmp_path, "v5e:2x2", answer)  # of before there was the field
    assert survey._of_other_code(tmp_path, [PROGRAM])[1] == "Compiled from code that is unknown: 1 of drdr/office31."
    assert "code" not in survey._report(path, whole=False)


def test_the_code_is_that_of_the_method_and_of_what_all_share(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "CODE", tmp_path)
    names = ("core/step.py", "core/loop.py", "nn/clip.py", "ops/masking.py", "methods/a/model.py", "methods/b/model.py")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    changes = []
    before = survey.code_of.__wrapped__("a")
    for name in names:
        (tmp_path / name).write_text("new")
        if survey.code_of.__wrapped__("a") != before:
            changes.append(name)
        (tmp_path / name).write_text("old")
    assert changes == ["core/step.py", "nn/clip.py", "ops/masking.py", "methods/a/model.py"]


def test_what_other_code_leaves_as_it_was_is_not_compiled_anew(tmp_path, monkeypatch):
    now, program = survey.code_of("drdr"), PROGRAM._replace(name="drdr/toy:row")
    monkeypatch.setattr(survey.configs, "load", lambda name, overrides: name)
    asked = []

    def lowered(config, topology, objectives):
        asked.append((config, topology, objectives))
        return {"objective adapt": "same", "predict of test": "same"}

    monkeypatch.setattr(survey.aot, "lowered", lowered)
    kept = {
        ("v5e:1x1", ""): {"code": now, "programs": [("objective adapt", None), ("predict of test", None)]},
        ("v5e:2x2", ""): {"code": "old", "programs": [("objective adapt", "same"), ("predict of test", "same")]},
        ("v5e:2x4", ""): {"code": "old", "programs": [("objective adapt", "same"), ("predict of test", "other")]},
        ("v5e:4x4", ""): {"code": "old", "refused": "a line"},
        ("v5e:4x8", ""): {"programs": [("objective adapt", None)]},  # before there was the hash
        ("v5e:2x4", ".updates"): {"code": "old", "programs": [("objective adapt", "same")]},
        ("v5e:4x4", ".worst"): {"code": "old", "programs": [("objective adapt", "same")]},
    }
    for (topology, kind), found in kept.items():
        if "programs" in found:
            found["programs"] = [{"name": name, **({"lowered": x} if x else {})} for name, x in found["programs"]]
        keep(tmp_path, topology, found, program.key + kind)
    survey.renew(tmp_path, [program])
    left = {path.name.split(".")[1]: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert {name: report["code"] for name, report in left.items()} == {"v5e_1x1": now, "v5e_2x2": now}
    assert {p["lowered"] for report in left.values() for p in report["programs"]} == {"same"}
    slices = ("v5e:1x1", "v5e:2x2", "v5e:2x4")
    assert asked == [*((program.name, t, ()) for t in slices), (program.name, "v5e:2x4", ("adapt",))]
    survey.renew(tmp_path, [program])
    assert len(asked) == 4  # all are of today's code, and known
