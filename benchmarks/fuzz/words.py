"""Command lines that are wrong, for every verb."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from benchmarks.fuzz.outcome import Case, command

FLAGS = {  # verb -> what it needs, and the flags that take a value
    "train": (["--config", "CONFIG", "--workdir", "NEW"], ["--config", "--workdir"]),
    "evaluate": (["--workdir", "RUN"], ["--workdir", "--checkpoint", "--split"]),
    "predict": (["--workdir", "RUN", "--videos", "VIDEOS", "--text", "x"], ["--workdir", "--checkpoint", "--top"]),
    "prepare": (["--config", "CONFIG"], ["--config", "--out", "--split", "--shrink", "--short-side", "--fps"]),
    "convert": (["FILE", "--from", "hf_clip", "--to", "NEW"], ["--from", "--to", "--image-size", "--interpolation"]),
    "report": (["--workdir", "RUN"], ["--workdir"]),
    "doctor": ([], ["--workdir"]),
    "methods": ([], []),
}
PLACES = ("--workdir", "--config", "--out", "--to", "--shrink")
CONFIGS = {
    "syntax": "def get_config(:\n",
    "none": "def get_config():\n    return None\n",
    "number": "def get_config():\n    return 3\n",
    "raises": "def get_config():\n    return 1 / 0\n",
    "imports": "import no_such_module_at_all\n",
    "nothing": "",
    "no_row": "from jaxvl.methods.drdr import recipe\ndef get_config():\n    return recipe.base()\n",
    "not_callable": "get_config = 3\n",
    "tabs": "def get_config():\n\tif 1:\n        return 2\n",
}


def cases(root: Path, run: Path, videos: Path, config: Path) -> list[Case]:
    """Some two hundred wrong command lines. run: a trained workdir; videos: a folder of videos."""
    names = {"CONFIG": config, "RUN": run, "VIDEOS": videos, "FILE": config, "NEW": root / "new"}
    found: list[list] = []
    for verb, (needed, valued) in FLAGS.items():
        full = [names.get(w, w) for w in needed]
        found += [
            [verb, *full, "--nope"],
            [verb, *full, "stray"],
            [verb, *full, "--config.nope=1"],
            [verb, *full, "-x"],
        ]
        for flag in valued:
            found.append([verb, *full, flag])  # without its value
            at = full.index(flag) if flag in full else None
            given = full[:at] + full[at + 2 :] if at is not None else full
            if at is not None:
                found.append([verb, *given])  # without it
            bad = ["", " ", "\0"] if flag in PLACES else ["-1", "1.5", "x", "", "nan", "1e9", "٣", "1_0"]
            if flag in ("--from", "--interpolation", "--split"):
                bad = ["", "no such"]
            if flag == "--fps":
                bad = ["", "nan", "inf", "-1", "0", "x"]
            for value in bad:
                found.append([verb, *given, f"{flag}={value}", *(["--shrink", root / "s"] if flag in SHRINK else [])])
        if "--workdir" in valued and verb != "doctor":
            for place in ("gs://bucket/run", "s3://bucket/run", config):
                given = [w for w in full if w not in ("--workdir", run, names["NEW"])]
                found.append([verb, *given, "--workdir", place])
    for name, text in CONFIGS.items():
        file = root / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        row = ":row" if name == "no_row" else ""
        found += [
            ["train", "--config", f"{file}{row}", "--workdir", root / "new"],
            ["prepare", "--config", f"{file}{row}"],
        ]
    binary = root / "binary.py"
    binary.write_bytes(bytes(range(256)))
    found += [["train", "--config", f, "--workdir", root / "new"] for f in (binary, root, root / "no.py", "a.txt")]
    for verb, item in itertools.product(("train", "prepare"), OVERRIDES):
        rest = ["--workdir", root / "new"] if verb == "train" else []
        found.append([verb, "--config", config, *rest, item])
    found += [["tarin"], ["--nope"], ["", "x"], ["train --config"], ["--version=3"], ["-1"]]
    found += [["train", "--config", config, "--workdir", root / "new", "--resume", "--fresh"]]
    found += [["evaluate", "--workdir", run, "--best", "--checkpoint", "1"], ["evaluate", "--workdir", run, "--best"]]
    found += [["convert", config, "--from", "hf_clip", "--to", root / "new", f, "("] for f in ("--drop", "--allow")]
    found += [
        ["evaluate", "--workdir", run, f"--config.{item}"] for item in ("seed=1", "data.root", "model.head=meanP")
    ]
    return [Case(" ".join(map(str, words)), lambda w=words: command(w)) for words in found]


SHRINK = ("--short-side", "--fps")
OVERRIDES = (
    *("--config.train.steps", "--config.train.steps=", "--config.train.steps=a", "--config.train..steps=1"),
    *("--config.=1", "--config.train=1", "--config.train.steps.more=1", "--config.seed=[[[", "--config.seed={[]:1}"),
    *("--config.data.frames=" + "(" * 5000, "--config.data.root=a\0b", "--config.optim.main.lr=1e999"),
    *("--config.optim.main.groups=((1,2),)", "--config.optim.main.groups=(('(',1),)", "--config.optim.other.lr=1"),
)

LINES = (  # right ones; paths are relative, so that a changed letter cannot lead out of the folder of the benchmark
    "evaluate --workdir run",
    "evaluate --workdir run --json --split test",
    "evaluate --workdir run --checkpoint 2",
    "predict --workdir run --videos small/videos --text circle --no-sheet --top 2",
    "report --workdir run",
    "prepare --config small/small.py --config.data.root=small/data",
    "train --config small/small.py --workdir new --config.data.root=small/data --config.train.steps=0 --dry-run",
    "convert small/small.py --from hf_clip --to new_weights",
    "configs centerclip",
    "methods",
    "doctor --workdir run",
)
LETTERS = (
    "",
    "-",
    "=",
    "0",
    "9" * 30,
    "e",
    ",",
    "(",
    "[",
    "'",
    '"',
    "\0",
    "\n",
    "\x1b[2J",
    "\ud800",
    "é",
    "\u202e",
    "%s",
    "{}",
)


def scrambled(root: Path, rng: np.random.Generator, count: int) -> list[Case]:
    """Right command lines with words lost, doubled or swapped, and letters lost or put in: done, or one line."""
    found = []
    for _ in range(count):
        words = str(rng.choice(LINES)).split()
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(words)))
            how = int(rng.integers(6))
            if how == 0 and len(words) > 1:
                del words[at]
            elif how == 1:
                words.insert(at, words[int(rng.integers(len(words)))])
            elif how == 2:
                other = int(rng.integers(len(words)))
                words[at], words[other] = words[other], words[at]
            else:
                letter = int(rng.integers(len(words[at]) + 1))
                words[at] = words[at][:letter] + LETTERS[rng.integers(len(LETTERS))] + words[at][letter + how - 3 :]
        if "--ask" in words or words == ["train"]:
            continue
        name = " ".join(words)
        found.append(Case(ascii(name)[1:-1], lambda w=words: command(w), ("refused", "done")))
    return found
