"""The question world on disk: mp4 files and annotations as a benchmark publishes them.

    ROOT/world.jsonl, world_stamp.json   the truth and what made it (`synthetic/on_disk.py`)
    layout 'agqa'     AGQA_balanced/{train,test}_balanced.txt, vocab.json, videos/ID.mp4
    layout 'nextqa'   {train,val,test}.csv, videos/ID.mp4          (without the yes-no questions)
    layout 'star'     STAR_{train,val,test}.json, videos/ID.mp4    (likewise; each question about a part of its video)

A line of world.jsonl: video, id, split, index, seconds, fps, num_frames, image_size, slots, events [{noun, colour,
texture, verb, slot, start, end}], background, tracks (as in `sprites.render.Track`), questions [{id, template,
question, answer, options, support (numbers of events), spans [[start_s, end_s], ...], novel}].
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic import on_disk
from jaxvl.data.synthetic.encode import write_video
from jaxvl.data.synthetic.questions.world import (
    SPLITS,
    LongVideo,
    QuestionWorldConfig,
    WorldQuestion,
    every_answer,
    plan_video,
)
from jaxvl.data.synthetic.sprites.render import Rendered, render_clip

WORLD_VERSION = 1
"""Raised whenever the same config gives other videos or questions; part of the stamp."""
STRUCTURES = {"query": "query", "choose": "choose", "compare": "compare", "first": "choose", "after": "query"}
BINARY = ("choose", "compare", "first")
STAR_OPTIONS = 4
STAR_TYPES = {"query": "Interaction", "choose": "Interaction", "first": "Sequence", "after": "Sequence"}
STAR_TYPES |= {"count": "Prediction", "hop": "Feasibility", "where": "Feasibility"}
NEXTQA_TYPES = {"query": "DO", "choose": "DO", "first": "TP", "after": "TN", "count": "DC", "hop": "CH", "where": "DL"}
"""The types that the benchmarks have, so that their tables can be made; they mean nothing here."""


def ensure_question_world(
    config: QuestionWorldConfig,
    root: str | Path,
    layout: str,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Makes sure that `root` holds the whole world of `config` in `layout`; see `on_disk.ensure`.

    Raises InputError: an unknown layout, a validation split in 'agqa', which has none.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} of the question world is none of {', '.join(LAYOUTS)}")
    if layout == "agqa" and config.num_val:
        raise InputError(f"QuestionWorldConfig.num_val = {config.num_val}: AGQA publishes no validation split; use 0")
    items = [
        on_disk.Item(f"{split}-{index}", f"videos/{video_id(split, index)}.mp4", (config, split, index))
        for split in SPLITS
        for index in range(config.count(split))
    ]
    stamp = on_disk.make_stamp(WORLD_VERSION, f"questions/{layout}", config)
    annotate = lambda world, root: LAYOUTS[layout](world, root, config)  # noqa: E731
    return on_disk.ensure(root, stamp, items, render_item, annotate, processes, progress)


def video_id(split: str, index: int) -> str:
    """`TR00012`, as short as Charades' ids."""
    return f"{split[:2].upper()}{index:05d}"


def render_item(item: on_disk.Item, video: str, save: on_disk.Save) -> None:
    """Renders one video: first its truth, then the file."""
    config, split, index = item.what
    plan = plan_video(config, split, index)
    rendered = render_clip(plan.clip)
    save(lambda: make_record(plan, rendered, item.video, config))
    write_video(video, rendered.frames, config.fps, config.crf, config.gop)


def make_record(plan: LongVideo, rendered: Rendered, video: str, config: QuestionWorldConfig) -> dict:
    """The line of `world.jsonl`."""
    clip = plan.clip
    width = clip.num_frames / config.slots / clip.fps
    name = Path(video).stem
    events = [
        {
            **{"noun": s.noun, "colour": s.colour, "texture": s.texture, "verb": e.verb, "slot": slot},
            **{"start": round(slot * width, 4), "end": round((slot + 1) * width, 4)},
        }
        for s, e, slot in zip(clip.sprites, clip.events, plan.slots)
    ]

    def asked(number: int, q: WorldQuestion) -> dict:
        spans = [[events[k]["start"], events[k]["end"]] for k in q.support]
        return {"id": f"{name}-{number}", **dataclasses.asdict(q), "spans": spans}

    return {
        **{"video": video, "id": name, "split": clip.split, "index": clip.index, "seconds": clip.seconds},
        **{"fps": clip.fps, "num_frames": clip.num_frames, "image_size": clip.image_size, "slots": config.slots},
        "events": events,
        "background": dataclasses.asdict(clip.background),
        "tracks": [dataclasses.asdict(t) for t in rendered.tracks],
        "questions": [asked(number, q) for number, q in enumerate(plan.questions)],
    }


def write_agqa(world: Sequence[dict], root: Path, config: QuestionWorldConfig) -> None:
    """`AGQA_balanced/{train,test}_balanced.txt` and MIST's `vocab.json` with every answer that there can be."""
    (root / "AGQA_balanced").mkdir(exist_ok=True)
    for split in ("train", "test"):
        content = {q["id"]: _agqa(record, q) for record, q in _questions(world, split)}
        on_disk.write(root / "AGQA_balanced" / f"{split}_balanced.txt", json.dumps(content))
    on_disk.write(root / "vocab.json", json.dumps({answer: i for i, answer in enumerate(every_answer(config))}))


def write_nextqa(world: Sequence[dict], root: Path, config: QuestionWorldConfig) -> None:
    """`{split}.csv`; the types are those of `NEXTQA_TYPES`."""
    header = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type"]
    for split in SPLITS:
        rows = [
            [record["id"], record["num_frames"], record["image_size"], record["image_size"], q["question"],
             q["options"].index(q["answer"]), q["id"].rsplit("-", 1)[1], NEXTQA_TYPES[q["template"]], *q["options"]]
            for record, q in _questions(world, split) if q["options"]
        ]  # fmt: skip
        if any(len(row) != len(header) + 5 for row in rows):
            raise InputError("QuestionWorldConfig.options: NExT-QA has 5")
        if rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([[*header, *(f"a{k}" for k in range(5))], *rows])
            on_disk.write(root / f"{split}.csv", text.getvalue())


def write_star(world: Sequence[dict], root: Path, config: QuestionWorldConfig) -> None:
    """`STAR_{split}.json`; the types are those of `STAR_TYPES`. The part that is meant goes from half-way before
    the first evidence to half-way behind the last, so it holds other events too."""
    for split in SPLITS:
        items = [_star(record, q) for record, q in _questions(world, split) if len(q["options"]) >= STAR_OPTIONS]
        if items:
            on_disk.write(root / f"STAR_{split}.json", json.dumps(items))


def published_questions(world: Sequence[dict], layout: str) -> Iterator[tuple[str, list[list[float]], float, float]]:
    """`(id of the question in this layout, spans of its evidence, start and end of what it is about)`, seconds."""
    for record in world:
        for q in record["questions"]:
            if layout == "nextqa":
                yield f"{record['id']}_{q['id'].rsplit('-', 1)[1]}", q["spans"], 0.0, record["seconds"]
            elif layout == "star":
                item = _star(record, q)
                yield item["question_id"], q["spans"], item["start"], item["end"]
            else:
                yield q["id"], q["spans"], 0.0, record["seconds"]


def _agqa(record: dict, q: dict) -> dict:
    return {
        "question": q["question"],
        "answer": q["answer"],
        "video_id": record["id"],
        "ans_type": "binary" if q["template"] in BINARY else "open",
        "global": [q["template"]],
        "semantic": "object" if q["template"] in ("first", "after") else "attribute",
        "structural": STRUCTURES.get(q["template"], "query"),
        "steps": len(q["support"]),
        "novel_comp": int(q["novel"]),
        "more_steps": 0,
        "sg_grounding": {},
    }


def _star(record: dict, q: dict) -> dict:
    kept = [q["answer"], *(o for o in q["options"] if o != q["answer"])][:STAR_OPTIONS]
    options = [o for o in q["options"] if o in kept]
    start, end = min(s for s, _ in q["spans"]), max(e for _, e in q["spans"])
    return {
        "question_id": f"{STAR_TYPES[q['template']]}_{record['id']}_{q['id'].rsplit('-', 1)[1]}",
        "question": q["question"],
        "video_id": record["id"],
        "start": round(start / 2, 3),
        "end": round((end + record["seconds"]) / 2, 3),
        "answer": q["answer"],
        "choices": [{"choice_id": i, "choice": text} for i, text in enumerate(options)],
    }


def _questions(world: Sequence[dict], split: str) -> list[tuple[dict, dict]]:
    return [(record, q) for record in world if record["split"] == split for q in record["questions"]]


LAYOUTS: dict[str, Callable[[Sequence[dict], Path, QuestionWorldConfig], None]] = {
    "agqa": write_agqa,
    "nextqa": write_nextqa,
    "star": write_star,
}
"""Layout -> what writes its annotation files."""
