"""Readers of questions about videos, on files as published and as they are usually broken."""

import json
import pickle

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data import json_stream
from jaxvl.data.json_stream import stream_json
from jaxvl.data.readers.question_answering import vocabulary as vocab
from jaxvl.data.readers.question_answering.agqa import read_agqa
from jaxvl.data.readers.question_answering.envqa import find_frames, read_envqa
from jaxvl.data.readers.question_answering.nextqa import read_nextqa, read_video_map
from jaxvl.data.readers.question_answering.questions import Questions, cached, known_id
from jaxvl.data.readers.question_answering.star import read_star
from tests.data.readers import qa_files as qa


def test_agqa_of_the_public_file(tmp_path):
    qa.write_agqa(tmp_path)
    reading = read_agqa(tmp_path, "train")
    assert reading.report.line() == "AGQA 2.0 train: 2 videos, 6 questions"
    assert len(reading.questions) == 6
    third = reading.questions[3]
    assert (third.question_id, third.video_id, third.answer) == ("Q3", "V14mp", "no")
    assert third.question == "Did they hold a «cup» 1?"
    assert third.groups == {
        "global": ("exists", "obj-rel"),
        "ans_type": ("binary",),
        "semantic": ("object",),
        "structural": ("verify",),
        "compositional": ("novel_comp",),
    }
    assert reading.questions[5].groups["compositional"] == ("novel_comp", "more_steps")
    assert third.text_index == reading.questions[2].text_index != reading.questions[4].text_index
    assert (third.options, third.label, third.start_s) == ((), -1, None)


@pytest.mark.parametrize("form", ["list", "lines"])
def test_agqa_of_the_copied_file(tmp_path, form):
    items = [
        {"question_id": f"Q{i}", "question": "Who?", "answer": "a dog", "video_id": f"v{i}.mp4", "answer_type": "open"}
        for i in range(3)
    ]
    text = json.dumps(items) if form == "list" else "".join(json.dumps(item) + "\n" for item in items)
    (tmp_path / "agqa_val.jsonl").write_text(text)
    reading = read_agqa(tmp_path, "test")
    assert [q.question_id for q in reading.questions] == ["Q0", "Q1", "Q2"]
    assert reading.questions[0].groups["ans_type"] == ("open",)
    assert "3 without question types" in reading.report.line()


def test_agqa_counts_what_cannot_be_used(tmp_path):
    nan = json.dumps(qa.agqa_item(1, question=float("nan")))
    good, twice = json.dumps(qa.agqa_item(2)), json.dumps(qa.agqa_item(5))
    (tmp_path / "train_balanced.txt").write_text(f'{{"A": {nan}, "B": {good}, "B": {twice}, "C": {good}}}')
    reading = read_agqa(tmp_path, "train")
    assert [q.question_id for q in reading.questions] == ["B", "C"]
    assert reading.questions[0].video_id == "V04mp"  # the first of the two
    assert dict(reading.report.skipped) == {"A": "question is no text", "B": "the id comes a second time"}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"A": {"question": "Who?", "answer": "x"}}', "question A has no field video_id"),
        ('{"A": {"question": "Who?", "answer": "x", "video_id": "v"}, "B": {"ques', "after 'B': the file is cut off"),
        ('{"A": {"question": "Who?", "answer": "x", "video_id": "v"}', "',' is missing"),
        ('[{"question": "Who?", "answer": "x", "video_id": "v"}]', "question 1 has no question_id"),
        ("[]", "no question can be used"),
        ("", "empty file"),
        ("<html>", "broken JSON"),
    ],
)
def test_agqa_of_a_broken_file_is_one_line(tmp_path, content, line):
    (tmp_path / "train_balanced.txt").write_text(content)
    with pytest.raises(InputError, match="train") as caught:
        read_agqa(tmp_path, "train")
    assert line in str(caught.value)


def test_a_missing_file_names_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"AGQA_balanced/test_balanced.txt, test_balanced.txt, agqa_val.jsonl"):
        read_agqa(tmp_path, "test")


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_json_is_the_same_however_it_is_cut(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    content = {"a": {"x": [1, 2.5e3, None]}, "b": {}, 'quoted "é": \\': {"y": True}}
    for name, text, expected in [
        ("object", json.dumps(content, indent=2), list(content.items())),
        ("list", "\n[ 12, 345 , {} ]\n", [(None, 12), (None, 345), (None, {})]),
        ("lines", '{"q": 1, "r": {}}\n{"q": 22}\n', [(None, {"q": 1, "r": {}}), (None, {"q": 22})]),
        ("empty", " { } ", []),
    ]:
        path = tmp_path / f"{name}.json"
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert list(stream_json(path, "a test")) == expected, name


@pytest.mark.parametrize("video", ["video", "video_id"])
def test_nextqa_of_either_column_name(tmp_path, video):
    qa.write_nextqa(tmp_path, video=video)
    questions = read_nextqa(tmp_path, "train").questions
    assert [(q.question_id, q.video_id, q.label) for q in questions] == [
        ("4010004_0", "4010004", 0),
        ("4010014_1", "4010014", 4),
        ("4010024_2", "4010024", 2),
    ]
    assert questions[1].options == tuple(qa.choices(1))
    assert questions[1].question == 'why, "so" 1?'
    assert questions[1].answer == "option 4, of 1"
    assert [q.groups["type"] for q in questions] == [("CW",), ("TN",), ("DO",)]


def test_nextqa_with_answers_as_text_or_as_a_column_of_floats(tmp_path):
    qa.write_nextqa(tmp_path, answers=(qa.choices(0)[1], qa.choices(1)[3], qa.choices(2)[0]))
    assert [q.label for q in read_nextqa(tmp_path, "train").questions] == [1, 3, 0]
    qa.write_nextqa(tmp_path, answers=("1.0", "", "4.0"))
    reading = read_nextqa(tmp_path, "train")
    assert [q.label for q in reading.questions] == [1, 4]
    assert reading.report.skipped == (("4010014_1", "answer is empty"),)


@pytest.mark.parametrize("answers", [("0", "5", "1"), ("0", "something else", "1")])
def test_nextqa_refuses_an_answer_that_is_no_option(tmp_path, answers):
    qa.write_nextqa(tmp_path, answers=answers)
    with pytest.raises(InputError, match="is not exactly one of the options"):
        read_nextqa(tmp_path, "train")


def test_nextqa_names_missing_columns(tmp_path):
    path = qa.write_nextqa(tmp_path, video="vid")
    with pytest.raises(InputError, match="needs a column video"):
        read_nextqa(tmp_path, "train")
    path.write_text(path.read_text().replace("a4", "a5", 1))
    with pytest.raises(InputError, match="needs a header line with a4"):
        read_nextqa(tmp_path, "train")


def test_video_map(tmp_path):
    assert read_video_map(tmp_path) == {}
    (tmp_path / "map_vid_vidorID.json").write_text('{"4010004": "1164/4010004"}')
    assert read_video_map(tmp_path) == {"4010004": "1164/4010004"}


def test_star_puts_each_choice_where_its_number_says(tmp_path):
    qa.write_list(tmp_path / "STAR_val.json", [qa.star_item(i) for i in range(3)])
    questions = read_star(tmp_path, "val").questions
    assert questions[0].options == ("The blanket.", "The towel.", "The clothes.", "The closet.")
    assert [q.label for q in questions] == [3, 3, 3]
    assert questions[1].groups["type"] == ("Sequence",)
    assert (questions[2].start_s, questions[2].end_s) == pytest.approx((13.1, 21.6))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"answer": "The door."}, "is 0 of its choices"),
        ({"choices": [{"choice_id": i, "choice": "The closet."} for i in range(4)]}, "is 4 of its choices"),
        ({"choices": [{"choice_id": i + 1, "choice": f"c{i}"} for i in range(4)]}, "not from 0 on"),
        ({"start": float("nan")}, "is no number of seconds"),
        ({"start": 30.0}, "is inverted"),
        ({"answer": None}, "has no answer"),
    ],
)
def test_star_errors_name_the_question(tmp_path, fields, line):
    qa.write_list(tmp_path / "STAR_train.json", [qa.star_item(0), qa.star_item(1, **fields)])
    with pytest.raises(InputError, match="Sequence_T1_1") as caught:
        read_star(tmp_path, "train")
    assert line in str(caught.value)


def test_star_test_split_has_no_answers(tmp_path):
    item = qa.star_item(0)
    del item["answer"]
    qa.write_list(tmp_path / "STAR_test.json", [item])
    reading = read_star(tmp_path, "test")
    assert reading.questions[0].label == -1
    assert "1 without a published answer" in reading.report.line()


def test_envqa_and_its_frames(tmp_path):
    item = {"question_id": "F_q0", "video_id": "F", "question": "What moved?", "answer": "the cup"}
    qa.write_list(tmp_path / "val_full_question.json", [item, item | {"question_id": "F_q1", "answer": None}])
    reading = read_envqa(tmp_path, "val")
    assert [(q.question_id, q.answer) for q in reading.questions] == [("F_q0", "the cup")]
    assert reading.report.skipped == (("F_q1", "answer is no text"),)
    frames = [f"FloorPlan2_physics_9_img_{k}" for k in (10, 2, 7)]
    qa.write_list(tmp_path / "env_qa_video_annotations_v1.json", {"F": {"frame_ids": frames}, "G": {"frame_ids": []}})
    folder = tmp_path / "frames" / "FloorPlan2_physics" / "9"
    folder.mkdir(parents=True)
    for name in frames[:2]:
        from PIL import Image

        Image.new("RGB", (8, 6), (0, 0, 9)).save(folder / f"{name}.png")
    found, lost = find_frames(tmp_path, tmp_path / "frames", ["F", "G", "H"])
    assert list(found) == ["F"]
    assert lost == 1
    assert [path.rsplit("_", 1)[1] for path in found["F"].files] == ["10.png", "2.png"]  # the listed order, not sorted
    assert found["F"].read([1, 0], None, crop=False).shape == (2, 6, 8, 3)


def test_ids_are_compared_exactly():
    known = {"QP4", "mp4QP4", "a.mp4"}
    assert known_id("mp4QP4.mp4", known) == "mp4QP4"
    assert known_id("QP4", known) == "QP4"
    assert known_id("a.mp4", known) == "a.mp4"
    assert known_id("QP", known) is None
    assert known_id("P4.mp4", known) is None


def test_a_table_on_disk_equals_the_one_in_memory_and_travels_as_its_path(tmp_path):
    qa.write_list(tmp_path / "STAR_val.json", [qa.star_item(i) for i in range(5)])
    table = read_star(tmp_path, "val").questions
    kept = table.save(tmp_path / "table", {})
    assert list(kept) == list(table)
    chosen = kept.select(np.array([4, 1, 2])).select(np.array([2, 0]))
    there = pickle.loads(pickle.dumps(chosen))
    assert [q.question_id for q in there] == [table[2].question_id, table[4].question_id]
    assert len(pickle.dumps(chosen)) < 600
    assert list(pickle.loads(pickle.dumps(table))) == list(table)


def test_a_kept_table_is_read_again_when_its_source_changes(tmp_path):
    path = qa.write_agqa(tmp_path, count=4)
    calls = []

    def read():
        calls.append(1)
        return read_agqa(tmp_path, "train")

    ask = lambda stamp=1: cached(tmp_path / "kept", {"v": stamp}, [str(path)], read)  # noqa: E731
    first, again = ask(), ask()
    assert len(calls) == 1
    assert again.report == first.report
    assert list(again.questions) == list(first.questions)
    qa.write_agqa(tmp_path, count=5)
    assert len(ask().questions) == 5
    ask(stamp=2)
    assert len(calls) == 3
    np.save(tmp_path / "kept" / "question.npy", np.zeros(2, np.int32))
    with pytest.raises(InputError, match="delete it to have it made again"):
        ask(stamp=2)


def test_held_out_videos_take_all_their_questions(tmp_path):
    qa.write_agqa(tmp_path, count=60)
    table = read_agqa(tmp_path, "train").questions
    rest, held = table.split_videos(0.25, seed=3)
    assert len(held.video_ids) == 5
    assert not set(held.video_ids) & set(rest.video_ids)
    assert sorted([*(q.question_id for q in rest), *(q.question_id for q in held)]) == sorted(
        f"Q{i}" for i in range(60)
    )
    assert [q.question_id for q in table.split_videos(0.25, seed=3)[1]] == [q.question_id for q in held]
    assert isinstance(held, Questions)


def test_vocabularies(tmp_path):
    qa.write_agqa(tmp_path, count=5)
    table = read_agqa(tmp_path, "train").questions
    answers = vocab.build_vocabulary(table)
    assert answers == ("yes", "no")  # three against two
    vocab.write_vocabulary(tmp_path / "vocab.json", answers)
    assert json.loads((tmp_path / "vocab.json").read_text()) == {"yes": 0, "no": 1}
    assert vocab.read_vocabulary(tmp_path / "vocab.json") == answers
    assert vocab.labels_of(table, answers).tolist() == [0, 1, 0, 1, 0]
    assert vocab.labels_of(table, ("no",)).tolist() == [-1, 0, -1, 0, -1]
    assert vocab.outside_note(table, answers) == ""
    assert "3 of 5 questions have an answer outside the vocabulary of 1 (yes)" in vocab.outside_note(table, ("no",))
    for bad in ({"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": "0"}, {"a": True}, {}, ["a"]):
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(InputError, match=r"bad\.json"):
            vocab.read_vocabulary(tmp_path / "bad.json")


def test_types_that_no_metric_knows_are_one_line_when_they_are_read(tmp_path):
    """Found before training, not by the first evaluation."""
    item = {"question": "Who?", "answer": "a dog", "video_id": "v", "global": [["exists"]]}
    (tmp_path / "train_balanced.txt").write_text(json.dumps({"Q1": item}))
    with pytest.raises(InputError, match=r"question Q1: global .* is no list of types"):
        read_agqa(tmp_path, "train")
    header = "video,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    (tmp_path / "train.csv").write_text(header + "v,q,1,0,XX,a,b,c,d,e\n")
    with pytest.raises(InputError, match=r"question v_0 \(row 2\): the type 'XX' is none of CW"):
        read_nextqa(tmp_path, "train")

    def star(*questions):
        items = [
            {"question_id": name, "question": "Who?", "video_id": "v", "start": 0, "end": 1, "answer": "a",
             "choices": [{"choice_id": i, "choice": text} for i, text in enumerate(choices)]}
            for name, choices in questions
        ]  # fmt: skip
        (tmp_path / "STAR_train.json").write_text(json.dumps(items))
        return read_star(tmp_path, "train")

    with pytest.raises(InputError, match="question Foo_1: its id begins with none of the types"):
        star(("Foo_1", "abcd"))
    with pytest.raises(InputError, match="question Sequence_2: has 3 choices, those before it 4"):
        star(("Interaction_1", "abcd"), ("Sequence_2", "abc"))
