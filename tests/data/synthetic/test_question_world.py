"""The question world: answers are right and balanced, the evidence is where the truth says, readers read it."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.readers.question_answering.agqa import read_agqa
from jaxvl.data.readers.question_answering.nextqa import read_nextqa
from jaxvl.data.readers.question_answering.star import read_star
from jaxvl.data.readers.question_answering.vocabulary import read_vocabulary
from jaxvl.data.synthetic.on_disk import read_truth
from jaxvl.data.synthetic.questions.layouts import ensure_question_world, published_questions
from jaxvl.data.synthetic.questions.world import (
    PLACES,
    TEMPLATES,
    QuestionWorldConfig,
    evidence_segments,
    heldout_pairs,
    plan_video,
)
from jaxvl.data.synthetic.sprites.render import render_clip

PLAN = QuestionWorldConfig(num_train=240, num_test=80, templates=TEMPLATES, events=(5, 6))
SMALL = QuestionWorldConfig(num_train=4, num_test=2, image_size=32, fps=1, seconds=16.0, templates=TEMPLATES[:6])
COLOURS = dataclasses.replace(PLAN, named_by="colour", templates=("where", "first", "after"), events=(4, 4))


@pytest.fixture(scope="module")
def plans():
    return [plan_video(PLAN, "train", i) for i in range(240)]


def test_every_answer_is_what_the_video_shows(plans):
    for plan in plans[:80]:
        looks = [(s.noun, s.colour, s.texture) for s in plan.clip.sprites]
        nouns, colours = [x[0] for x in looks], [x[1] for x in looks]
        assert len(set(nouns)) == len(nouns)
        asked = {q.template: q for q in plan.questions}
        noun = lambda q, nouns=nouns: next(n for n in nouns if f" {n}" in q.question)  # noqa: E731
        q = asked["query"]
        assert q.answer == colours[nouns.index(noun(q))]
        assert q.support == (nouns.index(noun(q)),)
        q = asked["choose"]
        assert q.answer == colours[q.support[0]]
        assert q.question.count(" or ") == 1
        assert q.answer in q.question
        q = asked["compare"]
        assert (q.answer == "yes") == (colours[q.support[0]] == colours[q.support[1]])
        q = asked["first"]
        assert q.answer == nouns[min(q.support)]
        assert nouns[max(q.support)] in q.question
        q = asked["after"]
        assert q.answer == nouns[q.support[1]]
        assert q.support[1] == q.support[0] + 1
        q = asked["count"]
        texture = "striped" if "striped" in q.question else "dotted"
        assert q.answer == str(sum(x[2] == texture for x in looks))
        q = asked["hop"]
        assert q.answer == colours[q.support[1]]
        q = asked["where"]
        at = np.array(plan.clip.sprites[q.support[0]].path.start)
        assert min(PLACES, key=lambda name: np.abs(at - PLACES[name]).sum()) == q.answer


def test_the_question_alone_tells_nothing(plans):
    answers = collections.defaultdict(collections.Counter)
    for plan in plans:
        for q in plan.questions:
            answers[q.template][q.answer] += 1
    for template, count in (("query", 8), ("choose", 8), ("compare", 2), ("count", 4), ("where", 5)):
        found = answers[template]
        assert len(found) == count
        assert max(found.values()) - min(found.values()) <= 1 + 240 % count, template  # dealt, not drawn
    first = collections.Counter(q.question.index(q.answer) < q.question.index(" or ") for p in plans
                                for q in p.questions if q.template == "first")  # fmt: skip
    assert first[True] == first[False]
    named_first = collections.Counter(q.question.index(q.answer) < q.question.index(" or ") for p in plans
                                      for q in p.questions if q.template == "choose")  # fmt: skip
    assert named_first[True] == named_first[False]


def test_held_out_pairs_are_in_test_only(plans):
    held = heldout_pairs(PLAN)
    assert len(held) == round(0.1 * 16 * 8)
    assert not any((s.noun, s.colour) in held for plan in plans for s in plan.clip.sprites)
    tests = [plan_video(PLAN, "test", i) for i in range(80)]
    novel = [q.novel for plan in tests for q in plan.questions if q.template == "query"]
    assert 0.2 < np.mean(novel) < 0.8
    for plan in tests:
        for q in plan.questions:
            shown = {(plan.clip.sprites[k].noun, plan.clip.sprites[k].colour) for k in q.support}
            assert q.novel == bool(shown & held)


def test_events_of_a_colour_each_are_named_by_it():
    for i in range(40):
        plan = plan_video(COLOURS, "train", i)
        colours = [s.colour for s in plan.clip.sprites]
        assert len(set(colours)) == 4
        for q in plan.questions:
            said = [c for c in colours if f"the {c} shape" in q.question]
            assert said
            if q.template == "first":
                assert q.answer == colours[min(q.support)]
            if q.template == "after":
                assert q.answer == colours[q.support[1]]


def test_every_event_can_be_asked_about():
    plan = plan_video(dataclasses.replace(COLOURS, every_event=True, templates=("where",)), "train", 7)
    assert sorted(q.support for q in plan.questions) == [(0,), (1,), (2,), (3,)]
    for q in plan.questions:
        sprite = plan.clip.sprites[q.support[0]]
        assert q.question == f"where is the {sprite.colour} shape?"
        assert min(PLACES, key=lambda name: np.abs(np.array(sprite.path.start) - PLACES[name]).sum()) == q.answer
        assert q.answer in q.options


def test_a_shape_is_seen_in_its_slot_and_nowhere_else():
    plan = plan_video(dataclasses.replace(PLAN, image_size=64), "train", 3)
    whole = render_clip(plan.clip).frames
    without = render_clip(plan.clip, without=[2]).frames
    differs = np.flatnonzero((whole != without).any((1, 2, 3)))
    frames, slot = plan.clip.num_frames, plan.slots[2]
    assert differs.min() >= slot * frames // 8
    assert differs.max() < (slot + 1) * frames // 8
    assert len(differs) > 10


def test_segments_of_the_evidence():
    assert evidence_segments([[7.5, 15.0]], 60.0, 8) == [1]
    assert evidence_segments([[0.0, 15.0], [52.5, 60.0]], 60.0, 8) == [0, 1, 7]
    assert evidence_segments([[1.875, 3.75]], 60.0, 8) == [0]
    assert evidence_segments([[5.0, 9.0]], 60.0, 8) == [0, 1]


@pytest.fixture(scope="module")
def agqa(tmp_path_factory):
    return ensure_question_world(SMALL, tmp_path_factory.mktemp("world") / "w", "agqa")


def test_agqa_layout_through_its_reader(agqa):
    train, test = (read_agqa(agqa, split).questions for split in ("train", "test"))
    assert (len(train), len(test)) == (24, 12)
    truth = {q["id"]: (record, q) for record in read_truth(agqa) for q in record["questions"]}
    for question in [*train, *test]:
        record, q = truth[question.question_id]
        assert (question.question, question.answer, question.video_id) == (q["question"], q["answer"], record["id"])
        assert (agqa / "videos" / f"{question.video_id}.mp4").is_file()
        assert question.groups["global"] == (q["template"],)
    answers = read_vocabulary(agqa / "vocab.json")
    assert len(answers) == 8 + 16 + 2 + 4
    assert set(answers) >= {q["answer"] for _, q in truth.values()}


@pytest.mark.parametrize(("layout", "read", "options"), [("nextqa", read_nextqa, 5), ("star", read_star, 4)])
def test_layouts_with_choices_through_their_readers(tmp_path, layout, read, options):
    config = dataclasses.replace(SMALL, num_val=2, templates=("query", "first", "after", "hop"))
    root = ensure_question_world(config, tmp_path / "w", layout)
    for split in ("train", "val", "test"):
        questions = read(root, split).questions
        assert questions.num_options == options
        assert all(q.options[q.label] == q.answer for q in questions)
    if layout == "star":
        spans = {name: (s, e, parts) for name, parts, s, e in published_questions(read_truth(root), layout)}
        for q in questions:
            start, end, parts = spans[q.question_id]
            assert (q.start_s, q.end_s) == (start, end)
            assert start <= min(s for s, _ in parts)
            assert max(e for _, e in parts) <= end


def test_a_second_call_changes_nothing_and_another_world_is_refused(agqa):
    before = {p: p.stat().st_mtime_ns for p in agqa.rglob("*")}
    ensure_question_world(SMALL, agqa, "agqa")
    assert {p: p.stat().st_mtime_ns for p in agqa.rglob("*")} == before
    with pytest.raises(InputError, match="layout 'questions/agqa' instead of 'questions/star'"):
        ensure_question_world(SMALL, agqa, "star")
    with pytest.raises(InputError, match="AGQA publishes no validation split"):
        ensure_question_world(dataclasses.replace(SMALL, num_val=3), agqa, "agqa")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"slots": 200}, "slots"),
        ({"events": (2, 3)}, "events"),
        ({"templates": ("query", "why")}, "templates"),
        ({"named_by": "colour"}, "templates"),
        ({"nouns": ("star",) * 2}, "nouns"),
    ],
)
def test_values_that_fit_nothing_name_their_field(fields, line):
    with pytest.raises(InputError, match=f"QuestionWorldConfig.{line}"):
        QuestionWorldConfig(**fields)
