"""Command lines that are wrong, for every verb."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np

from benchmarks.fuzz.outcome import Case, Reached, command
from jaxvl.core import config as configs

FLAGS = {  # verb -> what it needs, and the flags that take a value
    "train": (["--config", "CONFIG", "--workdir", "NEW"], ["--config", "--workdir"]),
    "evaluate": (["--workdir", "RUN"], ["--workdir", "--checkpoint", "--split"]),
    "predict": (["--workdir", "RUN", "--videos", "VIDEOS", "--text", "x"], ["--workdir", "--checkpoint", "--top"]),
    "prepare": (
        ["--config", "CONFIG"],
        ["--config", "--out", "--split", "--shrink", "--short-side", "--fps", "--extract", "--processes", "--process"],
    ),
    "convert": (["FILE", "--from", "hf_clip", "--to", "NEW"], ["--from", "--to", "--image-size", "--interpolation"]),
    "aot": (
        ["--config", "CONFIG", "--topology", "cpu:1"],
        ["--config", "--topology", "--also", "--trials", "--mesh", "--objective"],
    ),
    "report": (["--workdir", "RUN"], ["--workdir"]),
    "classify": (["--weights", "RUN", "--images", "VIDEOS", "--classes", "a"], ["--weights", "--images", "--top"]),
    "doctor": ([], ["--workdir"]),
    "methods": ([], []),
}
PLACES = ("--workdir", "--config", "--out", "--to", "--shrink", "--extract", "--weights", "--images")
OWN = {  # method -> what its `predict` needs, and wrong values of its flags
    "mist": (["--video=a.mp4", "--question=why"], ("top", "start", "end", "fps", "clip-weights", "out", "choices")),
    "afe_cnn": (["--sequences=a.csv"], ("sequences", "top", "out")),
    "utt": (
        ["--video=a.mp4"],
        ("video", "box", "detections", "start", "end", "fps", "tracker", "least-score", "out", "submit", "split"),
    ),
}
TEXTS = ("", " ", "a\0b")
NUMBERS = ("", "x", "nan", "inf", "-1", "1e999")
WRONG = {
    "top": ("", "0", "-1", "1.5", "x", "9" * 30),
    **dict.fromkeys(("start", "end", "fps"), NUMBERS),
    "least-score": (*NUMBERS, "2"),
    "box": ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,nan", "1,2,inf,4", "1;2;3;4", "1,,3,4"),
    "choices": (*TEXTS, ",", "a,,b", " , "),
}
"""Flag of a method's `predict` -> wrong values; of the rest `TEXTS`."""
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
            for place in ("gs://bucket", "s3://bucket/run", config):
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
    return [Case(" ".join(map(str, words)), lambda w=words: command(w)) for words in found] + _of_methods(root)


def _of_methods(root: Path) -> list[Case]:
    """Wrong flags of what the methods add to `predict`, and verbs that they lack. Nothing is trained: a flag that is
    wrong must be told before a checkpoint is looked for, so one that gets there was accepted."""
    found: list[list] = []
    for method, (needed, flags) in OWN.items():
        workdir = root / f"of_{method}"
        workdir.mkdir(exist_ok=True)
        base = importlib.import_module(f"jaxvl.methods.{method}.recipe").base()
        (workdir / "config.json").write_text(configs.to_json(base), encoding="utf-8")
        start = ["predict", "--workdir", workdir]
        found += [[*start, *needed, "--nope"], [*start, *needed, "stray"], [*start, *needed, "--config.seed=1"]]
        for flag in flags:
            given = [word for word in needed if not word.startswith(f"--{flag}=")]
            found += [[*start, *given, f"--{flag}"]]
            found += [[*start, *given, f"--{flag}={value}"] for value in WRONG.get(flag, TEXTS)]
        if method != "utt":  # which may write a submission instead
            found.append(start)
        file = root / f"of_{method}.py"
        file.write_text(f"from jaxvl.methods.{method} import recipe\nget_config = recipe.base\n", encoding="utf-8")
        for flag in ("--shrink", "--extract", "--out"):
            found.append(["prepare", "--config", file, flag, root / "made"])
        found += [["train", "--config", file, "--workdir", root / "made", "--folds"]]
        found += [["train", "--config", file, "--workdir", root / "made", "--folds=3"]]
    return [Case(" ".join(map(str, words)), lambda w=words: _unloaded(w)) for words in found]


def _unloaded(words: list) -> tuple[str, str]:
    """The command up to where a checkpoint is read: flags that get there were accepted."""
    from jaxvl.core import session

    def reached(*_, **__):
        raise Reached

    old, session.load = session.load, reached
    try:
        return command(words)
    finally:
        session.load = old


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
