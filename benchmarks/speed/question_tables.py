"""Memory and time of AGQA 2.0's questions at full size: read once from JSON, then mapped by every worker.

    python -m benchmarks.speed.question_tables [--questions 1600894]

A file of as many questions as the training split has, with the fields of the published one, is generated; about one
question text in eight is new, as templates repeat. It is read in a process of its own, and opened in another, and each
says its peak memory. A list of dicts, as the published loader holds it, is measured on a tenth of the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import results

QUESTIONS = 1_600_894
PARTS = ("baseline", "read", "open", "dicts")


def write_questions(path: Path, count: int) -> None:
    """The generated file."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            item = {
                "question": f"Before holding object {i % 211} but after walking through place {i // 8 % 997}, which "
                f"object were they {('touching', 'watching', 'closing')[i % 3]} number {i // 8}?",
                "answer": f"answer {i * 7919 % 171}",
                "video_id": f"V{i // 167:05d}",
                "ans_type": ("open", "binary")[i % 2],
                "global": [("obj-rel", "rel-act", "sequencing", "exists")[i % 4]],
                "semantic": ("object", "relation", "action")[i % 3],
                "structural": ("query", "verify", "choose", "logic", "compare")[i % 5],
                "steps": i % 7,
                "novel_comp": int(i % 11 == 0),
                "more_steps": 0,
                "program": "Query(class, OnlyItem(IterateUntil(forward, video, Exists(action, Filter(frame)))))",
                "sg_grounding": {f"{i % 90}-{i % 90 + 9}": [f"o{i % 36}/{i % 900:06d}", f"r{i % 40}/{i % 900:06d}"]},
            }
            file.write(("{" if not i else ", ") + json.dumps(f"{i // 167}-{i}") + ": " + json.dumps(item))
        file.write("}")


def measure(part: str, path: Path, table: Path) -> dict[str, float]:
    """One part in this process: seconds and peak memory."""
    from jaxvl.data.readers.question_answering.agqa import read_agqa
    from jaxvl.data.readers.question_answering.questions import Questions

    begun, number = time.perf_counter(), 0
    if part == "read":
        questions = read_agqa(path.parent, "train").questions.save(table, {})
        number = len(questions)
    elif part == "open":
        questions = Questions.open(table)
        step = max(1, len(questions) // 100_000)
        number = sum(len(questions[i].question) > 0 for i in range(0, len(questions), step))
    elif part == "dicts":
        held = json.loads(path.read_text())
        number = len(held)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "number": number}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        name = "tenth.json" if args.part == "dicts" else "train_balanced.txt"
        print(json.dumps(measure(args.part, args.folder / name, args.folder / "table")))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_questions(folder / "train_balanced.txt", args.questions)
        write_questions(folder / "tenth.json", args.questions // 10)
        size = (folder / "train_balanced.txt").stat().st_size / 2**20
        raw = {}
        for part in PARTS:
            command = [sys.executable, "-m", "benchmarks.speed.question_tables", "--part", part, "--folder", scratch]
            raw[part] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        on_disk = sum(p.stat().st_size for p in (folder / "table").iterdir()) / 2**20
    base = raw["baseline"]["peak_mib"]
    net = {part: raw[part]["peak_mib"] - base for part in PARTS}
    tenth = [f"{10 * raw['dicts']['seconds']:.0f}", f"{10 * net['dicts']:.0f}"]
    rows = [
        ["read once from JSON", f"{raw['read']['seconds']:.0f}", f"{net['read']:.0f}"],
        ["opened by a worker, 100,000 questions asked for", f"{raw['open']['seconds']:.1f}", f"{net['open']:.0f}"],
        ["list of dicts, a tenth of the file, times ten", *tenth],
    ]
    note = (
        f"{args.questions:,} generated questions, {size:,.0f} MiB of JSON, {on_disk:,.0f} MiB as columns on disk, "
        "pages that all workers of a host share. Peak memory over that of an idle process, which holds the imports. "
        "Seconds are of a machine on which other work ran."
    )
    results.save("question_tables", "AGQA 2.0's questions at full size", ["", "seconds", "MiB"], rows, note, raw)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
