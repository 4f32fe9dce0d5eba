"""Small question files in their published layouts, with what is usually broken in them."""

import csv
import json


def write_agqa(folder, name="AGQA_balanced/train_balanced.txt", count=6):
    """The public form: one object, id -> question."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({f"Q{i}": agqa_item(i) for i in range(count)}), encoding="utf-8")
    return path


def agqa_item(i, **fields):
    return {
        "question": f"Did they hold a «cup» {i // 2}?",
        "answer": ("yes", "no")[i % 2],
        "video_id": f"V{i // 3}4mp",
        "ans_type": "binary",
        "global": ["exists", "obj-rel"] if i % 2 else ["exists"],
        "semantic": "object",
        "structural": "verify",
        "steps": 3,
        "novel_comp": i % 2,
        "more_steps": int(i > 3),
        "sg_grounding": {"5-9": ["o1/000001"]},
    } | fields


def write_nextqa(folder, split="train", video="video", answers=("0", "4", "2"), types=("CW", "TN", "DO")):
    path = folder / f"{split}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([video, "frame_count", "width", "height", "question", "answer", "qid", "type", *OPTIONS])
        for i, (answer, kind) in enumerate(zip(answers, types)):
            row = [f"40100{i}4", 300 + i, 640, 480, f'why, "so" {i}?', answer, i, kind, *choices(i)]
            writer.writerow(row)
    return path


OPTIONS = ("a0", "a1", "a2", "a3", "a4")


def choices(i):
    return [f"option {k}, of {i}" for k in range(5)]


def star_item(i, **fields):
    return {
        "question_id": f"{('Interaction', 'Sequence')[i % 2]}_T1_{i}",
        "question": f"Which object was tidied up {i}?",
        "video_id": "6H78U",
        "start": 11.1 + i,
        "end": 19.6 + i,
        "answer": "The closet.",
        "choices": [
            {"choice_id": 3, "choice": "The closet."},
            {"choice_id": 1, "choice": "The towel."},
            {"choice_id": 0, "choice": "The blanket."},
            {"choice_id": 2, "choice": "The clothes."},
        ],
        "graphs": {},
    } | fields


def write_list(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(items), encoding="utf-8")
    return path
