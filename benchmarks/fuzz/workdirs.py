"""Damaged workdirs: checksum lists, arrays without a list, and every small file that a run leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.fuzz.outcome import Case, command, judged
from jaxvl.core import checkpoint, session, sharding
from tests import toys


def _bytes(content: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Ways in which a file's bytes go wrong."""
    flipped = bytearray(content)
    flipped[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    yield "flipped", bytes(flipped)
    yield "cut", content[: len(content) // 2]
    yield "empty", b""
    yield "zeros", bytes(len(content))
    yield "noise", rng.bytes(len(content))
    yield "longer", content + b"\0more"


def _shapes() -> Iterator[tuple[str, bytes]]:
    """JSON that is none of what belongs there."""
    values: dict[str, Any] = {
        "list": [1], "number": 3, "text": "x", "null": None, "nested": {"a": {"b": [1, {}]}}, "nothing": {},
        "texts": {"a": "b"}, "numbers": {"a": 1}, "floats": {"a": [1.5, 2.5]}, "three": {"a": [1, 2, 3]},
        "flags": {"a": [True, 1]},
    }  # fmt: skip
    for name, value in values.items():
        yield name, json.dumps(value).encode()
    yield "deep", b"[" * 50_000
    yield "digits", b'{"a": [' + b"9" * 6000 + b", 1]}"
    yield "surrogate", b'{"\\ud800": ["\\udfff", 1]}'
    yield "nan", b'{"a": [NaN, Infinity]}'
    yield "latin1", '{"é": 1}'.encode("latin-1")
    yield "utf16", '{"a": 1}'.encode("utf-16")


class Toy:
    """Three states of a small run, of which two are kept."""

    def __init__(self, root: Path):
        self.config, self.root = toys.toy_config(ema=0.9), root
        shutil.rmtree(root, ignore_errors=True)
        self.compiled = session.compile_method(self.config, toys.contrastive())
        state, self.states = self.compiled.fresh_state(), []
        checkpoints = checkpoint.Checkpoints(root / "whole", self.config)
        for i, batch in enumerate(toys.host_batches(3)):
            update = self.compiled.updates["pair"]
            state, _ = update(state, jax.device_put(batch, sharding.batch_sharding(self.compiled.mesh)))
            self.states.append(jax.device_get(jax.tree.map(lambda x: x.copy(), state).params))
            checkpoints.save(state, {"train": 16 * (i + 1)}, {"config": "x"})
        checkpoints.close()

    def restored(self, damage: Callable[[Path], None]) -> tuple[str, str]:
        """What training restores from a damaged copy: the newest values, the ones before, other values, or an error."""
        place = self.root / "copy"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.root / "whole", place)
        damage(place)
        lines: list[str] = []

        def restore() -> str:
            checkpoints = checkpoint.Checkpoints(place, self.config, lines.append)
            try:
                state, _ = checkpoints.restore(self.compiled.target)
            finally:
                checkpoints.close()
            for name, kept in (("newest", self.states[2]), ("older", self.states[1])):
                if all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(kept))):
                    return name
            return "other values"

        outcome, detail = judged(restore)
        if outcome == "done":
            return detail, "; ".join(lines)[:200]
        return outcome, detail


def lists(toy: Toy, rng: np.random.Generator) -> list[Case]:
    """The newest step's checksum list damaged: its state is not trusted, the one before is taken."""
    file = Path("integrity") / "3.json"
    content = (toy.root / "whole" / file).read_bytes()
    ways = [*_shapes(), *(pair for _ in range(9) for pair in _bytes(content, rng))]
    rows = json.loads(content)
    name = next(iter(rows))
    for label, row in (("text", "x"), ("null", None), ("short", [1]), ("negative", [-1, -1]), ("texts", ["1", "2"])):
        ways.append((f"row {label}", json.dumps({**rows, name: row}).encode()))
    for label, key in (("up", "../../x"), ("absolute", "/etc/hostname"), ("nul", "a\0b"), ("long", "a" * 5000)):
        ways.append((f"name {label}", json.dumps({**rows, key: [1, 1]}).encode()))
    ways.append(("a row less", json.dumps({k: v for k, v in rows.items() if k != name}).encode()))
    write = lambda new: lambda place: (place / file).write_bytes(new)  # noqa: E731
    return [
        Case(f"list {label}", lambda n=new: toy.restored(write(n)), ("older",)) for label, new in ways if new != content
    ]


def without_list(toy: Toy, rng: np.random.Generator) -> list[Case]:
    """The list gone and a file damaged: the newest values where the damage does not matter, else the ones before."""
    found = []
    step = toy.root / "whole" / "checkpoints" / "3"
    for file in sorted(p for p in step.rglob("*") if p.is_file()):
        for label, new in _bytes(file.read_bytes() or b"x", rng):

            def damage(place: Path, file=file, new=new) -> None:
                (place / "integrity" / "3.json").unlink()
                (place / file.relative_to(toy.root / "whole")).write_bytes(new)

            found.append(
                Case(f"{file.relative_to(step)} {label}", lambda d=damage: toy.restored(d), ("older", "newest"))
            )
    return found


SMALL = {  # file -> the verbs that read it
    "config.json": ("report", "evaluate", "predict", "train"),
    "env.json": ("report",),
    "metrics.jsonl": ("report",),
    "vocabulary.json": ("evaluate", "predict"),
    "eval/test.json": ("report",),
    "pictures/index.json": ("report",),
    "pictures/00.png": ("report",),
    "ids/train.txt": ("evaluate",),
}


def small_files(root: Path, run: Path, videos: Path, config: list, rng: np.random.Generator) -> list[Case]:
    """Every small file of a trained workdir damaged, read by the verbs that need it: done, or one line.

    What evaluate and predict print must be what they print of the whole workdir, unless they say which file is not as
    it was.
    """
    found = []
    rest = {"predict": ["--videos", videos, "--text", "clip", "--no-sheet", "--json"], "train": config}
    rest["evaluate"] = ["--json"]
    right: dict[str, str] = {}
    for file, verbs in SMALL.items():
        content = (run / file).read_bytes()
        ways = [*_bytes(content, rng), *(_shapes() if file.endswith(".json") else ())]
        if file == "config.json":
            ways += [(f"without {k}", _without(content, k)) for k in ("train", "model", "optim", "method", "data")]
            ways += [(f"{k} a text", _with(content, k, "x")) for k in ("train", "model", "optim", "mesh", "method")]
        for label, new in ways:
            for verb in verbs if label in ("cut", "list", "nothing") or file == "config.json" else verbs[:1]:

                def go(file=file, new=new, verb=verb) -> tuple[str, str]:
                    words = [verb, "--workdir", root / "damaged", *rest.get(verb, [])]
                    if verb in ("evaluate", "predict") and verb not in right:
                        _copy(run, root / "damaged")
                        command(words, printed := [])
                        right[verb] = _answer(printed[0])
                    (_copy(run, root / "damaged") / file).write_bytes(new)
                    outcome = command(words, printed := [])
                    if outcome[0] != "done" or verb not in right or _answer(printed[0]) == right[verb]:
                        return outcome
                    return ("told" if str(root / "damaged" / file) in printed[1] else "other answer"), printed[0][:200]

                found.append(Case(f"{verb} with {file} {label}", go, ("refused", "done", "told")))
    return found


def _copy(run: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(run, place))


def _answer(printed: str) -> str:
    """The part of `--json` that depends on the model and the data alone."""
    content = json.loads(printed)
    return json.dumps(content.get("queries", content))


def _without(content: bytes, key: str) -> bytes:
    return json.dumps({k: v for k, v in json.loads(content).items() if k != key}).encode()


def _with(content: bytes, key: str, value: Any) -> bytes:
    return json.dumps({**json.loads(content), key: value}).encode()


def indexes(root: Path, run: Path, videos: Path, rng: np.random.Generator) -> list[Case]:
    """A search index written by hand or damaged: one line."""
    place = root / "index"
    shutil.rmtree(place, ignore_errors=True)
    words = ["predict", "--workdir", run, "--videos", videos, "--text", "a red circle", "--no-sheet", "--index", place]
    outcome = command(words)
    assert outcome[0] == "done", outcome
    file = place / "index.npz"
    content = file.read_bytes()
    with np.load(file) as arrays:
        good = dict(arrays)
    about = json.loads(good["about"].tobytes())
    nan = good["video"] * np.nan
    changes: dict[str, dict[str, Any]] = {
        "video nan": {"video": nan},
        "segments inf": {"segments": good["segments"] + np.inf},
        "spans nan": {"spans": good["spans"] * np.nan},
        "video flat": {"video": good["video"].ravel()},
        "video narrow": {"video": good["video"][:, :3]},
        "both narrow": {"video": good["video"][:, :3], "segments": good["segments"][..., :3]},
        "video ints": {"video": good["video"].astype(int)},
        "video texts": {"video": good["video"].astype(str)},
        "mask floats": {"segment_mask": good["segment_mask"].astype(float)},
        "mask none": {"segment_mask": good["segment_mask"] & False},
        "spans one": {"spans": good["spans"][..., :1]},
        "a row less": {"video": good["video"][:-1]},
        "scalar": {"video": np.float32(3)},
    }
    abouts: dict[str, Any] = {
        "list": [1], "number": 3, "nothing": {}, "version text": {**about, "version": "x"},
        "version 99": {**about, "version": 99},
        "rows numbers": {**about, "rows": [1] * len(about["rows"])}, "rows text": {**about, "rows": "abc"},
        "rows twice": {**about, "rows": [about["rows"][0]] * len(about["rows"])}, "files list": {**about, "files": []},
        "files numbers": {**about, "files": {k: 3 for k in about["files"]}}, "folder number": {**about, "folder": 3},
        "files short": {**about, "files": {k: v[:1] for k, v in about["files"].items()}},
        "provenance text": {**about, "provenance": "x"}, "folder null": {**about, "folder": None},
    }  # fmt: skip
    changes |= {f"about {k}": {"about": np.frombuffer(json.dumps(v).encode(), np.uint8)} for k, v in abouts.items()}
    changes["about deep"] = {"about": np.frombuffer(b"[" * 100_000, np.uint8)}
    changes |= {f"without {k}": {k: None} for k in good}
    found = []
    for label, change in changes.items():
        arrays = {k: v for k, v in (good | change).items() if v is not None}

        def go(arrays=arrays) -> tuple[str, str]:
            np.savez(file, **arrays)
            return command(words)

        found.append(Case(f"index {label}", go))
    for label, new in _bytes(content, rng):

        def go_bytes(new=new) -> tuple[str, str]:
            file.write_bytes(new)
            return command(words)

        found.append(Case(f"index bytes {label}", go_bytes, ("refused", "done")))
    return found


ASKED = (
    *(
        b"video:",
        b"video:  ",
        b"video:\0",
        b"a\0b",
        b"\xff\xfe",
        b"video:\xff.mp4",
        b"\x1b[31mred",
        b"video:/",
        b"video:.",
    ),
    *(
        b"video:" + b"a" * 5000,
        b"a" * 100_000,
        b"video:/dev/zero",
        b"video:~/no.mp4",
        "\u202eabc".encode(),
        b"\xed\xa0\x80",
    ),
    *(b"video:loop.mp4", b"[" * 1000, b"video:video:x"),
)


def asked(root: Path, run: Path, videos: Path) -> list[Case]:
    """Odd lines of `--ask`: each is answered, or told what is wrong, and the next one is read."""
    import io
    import sys

    loop = Path("loop.mp4")
    loop.unlink(missing_ok=True)
    loop.symlink_to("loop.mp4")
    words = ["predict", "--workdir", run, "--videos", videos, "--ask", "--index", root / "asked"]

    def go(line: bytes) -> tuple[str, str]:
        old, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(line + b"\na red circle\n"), encoding="utf-8")
        try:
            return command(words)
        finally:
            sys.stdin = old

    found = [Case(f"--ask {line[:30]!r}", lambda line=line: go(line), ("done",)) for line in ASKED]
    like = [*words[:-3], "--index", root / "asked", "--like", loop]
    return [*found, Case("--like of a link to itself", lambda: command(like))]
