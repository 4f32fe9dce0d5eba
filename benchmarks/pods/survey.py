"""Every published config on the smallest v5e slice that holds it, and three configs from 4 to 128 chips.

    python -m benchmarks.pods.survey --root DIR [--only METHOD] [--rows N] [--jobs N] [--table] [--renew]

A program takes half a minute to four, so each is kept as a JSON in DIR and never made again: the command goes on where
it ended. What docs/results/pods.json holds is not made again, either, unless --anew. Configs that differ in their data
alone are one program, and one row. --table only writes docs/results/pods.{json,md} of what is there, and says which
programs were compiled from other code than today's; --renew traces those again, and compiles anew what is another
program now. Needs the extra `aot`.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from jaxvl.core import chips, config_files, costs, session
from jaxvl.core import config as configs
from jaxvl.core.memory import gib
from jaxvl.verbs import aot

NAME = "pods"
ONE = "v5e:1x1"
FIRST = "v5e:2x2"
UNSURE = 1.5
"""A slice is compiled where another one's figures say that a chip of it needs less than so many times what it has."""
SLICES = (FIRST, "v5e:2x4", "v5e:4x4", "v5e:4x8")
SCALED = ("centerclip/msrvtt:9k_b32_kmedoids_b6_4_49", "drdr/office31:uda_a_w", "mist/agqa:paper")
WHY = {
    SCALED[0]: "the contrastive loss is of all pairs of the whole batch, of which each chip has its rows",
    SCALED[1]: "the plan of the transport is of the whole batch, and every chip solves it",
    SCALED[2]: "there are as many answers on every slice, and they are spread over it, so a chip embeds fewer; what "
    "stays on the chip and does not go through memory is the compiler's choice",
}
"""What the figures of SCALED grow or fall by."""
SIZES = ("v5e:2x2", "v5e:4x4", "v5e:8x16")
TIMEOUT = 4 * 3600
CODE = Path(session.__file__).parents[1]


class Program(NamedTuple):
    """Configs that compile alike. name: the first of them; key: a hash of what is compiled; size: bytes of a batch;
    leads: it is the first of a config file."""

    name: str
    key: str
    same: tuple[str, ...]
    objectives: tuple[str, ...]
    size: int
    leads: bool


def programs(only: str = "") -> list[Program]:
    """One for each program that the published configs compile: first one of each file, the small ones in front."""
    found: dict[str, Program] = {}
    for file in config_files.files(only):
        if file.stem == "quickstart":
            continue
        leads = True
        for row in getattr(configs.module_of(file), "EXPERIMENTS", None) or [""]:
            name = f"{file.parent.name}/{file.stem}" + (f":{row}" if row else "")
            key, objectives, size = _what_is_compiled(name)
            if key in found:
                found[key] = found[key]._replace(same=(*found[key].same, name))
            else:
                found[key] = Program(name, key, (), objectives, size, leads)
                leads = False
    return sorted(found.values(), key=lambda p: (not p.leads, p.size))


def _what_is_compiled(name: str) -> tuple[str, tuple[str, ...], int]:
    config = configs.with_length(configs.load(name), configs.NOMINAL_EPOCH)
    method = session.build_method(config)
    tree = json.loads(configs.to_json(config))
    shapes = lambda spec: {s: {k: [list(x.shape), str(x.dtype)] for k, x in f.items()} for s, f in spec.items()}  # noqa: E731
    # streams of an evaluation are named after the user's splits and domains: what is computed has no such name
    evaluated = sorted(json.dumps(list(shapes(batch).values())) for batch in method.predict_spec)
    rates = ("lr", "end_lr", "floor", "warmup", "schedule", "boundaries", "decay_factor", "late_lr", "late_from")
    optim = {n: {k: v for k, v in o.items() if k not in rates} for n, o in tree["optim"].items()}
    train = {k: tree["train"][k] for k in ("accumulate", "clip_norm", "ema")}
    if not tree["precision"]["scan_layers"]:  # a field younger than rows that are kept, off as they were made
        del tree["precision"]["scan_layers"]
    parts = [config.method, tree["model"], tree["precision"], shapes(method.batch_spec), evaluated, optim, train]
    size = sum(x.size * x.dtype.itemsize for fields in method.batch_spec.values() for x in fields.values())
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    return f"{config.method}-{key}", tuple(method.objectives), size


@functools.cache
def code_of(method: str) -> str:
    """A hash of the files that a method's programs come from: its own, layers, operators and the update of a state."""
    files = [CODE / "core" / "step.py"]
    for folder in ("nn", "ops", f"methods/{method}"):
        files += sorted((CODE / folder).rglob("*.py"))
    parts = [(path.relative_to(CODE).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def compiled(root: Path, key: str, name: str, topology: str, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `jaxvl aot` says, from DIR where it is there. `refused`: the line, where it says nothing else."""
    path = _file(root, key, topology)
    if path.is_file():
        return json.loads(path.read_text())
    print(f"{name} on {topology}", flush=True)
    command = [sys.executable, "-m", "jaxvl.cli", "aot", "--config", name, "--topology", topology, "--also", "none"]
    done = subprocess.run(
        [*command, "--trials", "0", "--json", *words], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode == 2:
        found = {"refused": done.stderr.strip().splitlines()[-1].removeprefix("jaxvl: ")}
    elif done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    else:
        found = json.loads(done.stdout)
    found["code"] = code_of(_method(name))
    root.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(path)
    return found


def of_program(root: Path, program: Program, topology: str) -> dict[str, Any]:
    """All its programs on a slice; updates alone where the batch of its evaluation cannot be spread over the chips."""
    found = compiled(root, program.key, program.name, topology)
    if "of the evaluation" in found.get("refused", ""):
        words = tuple(w for name in program.objectives for w in ("--objective", name))
        return compiled(root, f"{program.key}.updates", program.name, topology, words)
    return found


def smallest(root: Path, program: Program, one: bool = False, start: str = FIRST) -> dict[str, Any]:
    """The report on the smallest slice that holds it, else the last one that was tried. That of four chips, where their
    figures say that one chip holds it, too; one: that chip is compiled, nevertheless.

    start: the slice to begin with. From there on slices that, by the figures at hand, would need UNSURE times what they
    have are not compiled, be they smaller ones or larger ones.
    """
    at = SLICES.index(start)
    found = of_program(root, program, start)
    while not found.get("fits") and at + 1 < len(SLICES):
        at += 1
        if at + 1 == len(SLICES) or _of_limit(found, SLICES[at]) < UNSURE:
            larger = of_program(root, program, SLICES[at])
            if "programs" in found and "programs" not in larger:  # too few rows for so many chips
                at -= 1
                found = of_program(root, program, SLICES[at])
                break
            found = larger
    while found.get("fits") and at and _of_limit(found, SLICES[at - 1]) < UNSURE:
        if not _holds_worst(root, program, found, SLICES[at - 1]):
            break
        below = of_program(root, program, SLICES[at - 1])
        if not below.get("fits"):
            break
        at, found = at - 1, below
    if found.get("fits") and at == 0:
        share = _of_limit(found, ONE)
        if (one and share < 1) or 1 <= share < UNSURE:
            single = of_program(root, program, ONE)
            return single if single.get("fits") else found
    return found


def _holds_worst(root: Path, program: Program, report: Mapping[str, Any], topology: str) -> bool:
    """False where a smaller slice does not hold that one of its programs which needs most. It is compiled alone where
    the report leaves little hope, and an update needs most."""
    worst = max(report["programs"], key=lambda p: p["needed"])["name"]
    hopeful = _of_limit(report, topology) < 1 or not worst.startswith("objective ")
    if hopeful or _file(root, program.key, topology).is_file():
        return True
    words = ("--objective", worst.removeprefix("objective "))
    return bool(compiled(root, f"{program.key}.worst", program.name, topology, words).get("fits"))


def _of_limit(report: Mapping[str, Any], topology: str) -> float:
    """What a device of another slice would hold by this report, as a part of what it can: all of the state, and as many
    times what lies beside it as it has fewer chips. That is too much for what each has whole, whatever the slice."""
    if "programs" not in report:
        return 1.0  # it was refused, and says nothing of memory
    times = report["topology"]["chips"] / chips.parse(topology).chips
    state = sum(report["state"].values())
    worst = max(p["needed"] for p in report["programs"])
    return (min(state, worst) + times * max(0, worst - state)) / report["limit"]["bytes"]


def of_sizes(root: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The updates of a config on each of SIZES, with as many rows a chip as the published batch has on four."""
    key, objectives, _ = _what_is_compiled(name)
    for topology in SIZES:
        if topology == SIZES[0]:
            yield topology, compiled(root, key, name, topology)
            continue
        words = [w for objective in objectives for w in ("--objective", objective)]
        words += [f"--config.{override}" for override in _rows(name, topology)]
        yield topology, compiled(root, _scaled(name), name, topology, tuple(words))


def _rows(name: str, topology: str) -> list[str]:
    """Overrides of a config: as many rows a chip as the published batch has on the first of SIZES."""
    times = chips.parse(topology).chips // chips.parse(SIZES[0]).chips
    sizes = {k: v for k, v in configs.load(name).data.items() if k.endswith("batch_size") and isinstance(v, int)}
    return [f"data.{k}={v * times}" for k, v in sizes.items()]


def renew(root: Path, found: Sequence[Program]) -> None:
    """Takes away what was compiled of other code than today's, if that is another program or nobody knows."""
    asked = [
        (_file(root, key, topology), program.name, topology, objectives, ())
        for program in found
        for key, objectives in ((program.key, ()), (f"{program.key}.updates", program.objectives))
        for topology in (ONE, *SLICES)
    ]
    for program in found:
        if program.name in SCALED:
            file = functools.partial(_file, root, _scaled(program.name))
            asked += [(file(t), program.name, t, program.objectives, _rows(program.name, t)) for t in SIZES[1:]]
        for path in root.glob(f"{program.key}.worst.*.json"):  # a trial, which nothing else is read from
            if json.loads(path.read_text()).get("code") != code_of(_method(program.name)):
                path.unlink()
    for path, name, topology, objectives, overrides in asked:
        if path.is_file():
            _renew(path, name, topology, objectives, overrides)


def _renew(path: Path, name: str, topology: str, objectives: Sequence[str], overrides: Sequence[str]) -> None:
    """A report of today's code is given the hashes of its programs, where it was made before there were any."""
    report, today = json.loads(path.read_text()), code_of(_method(name))
    was = {p["name"]: p.get("lowered") for p in report.get("programs", ())}
    hashed = bool(was) and all(was.values())
    if report.get("code") == today and (hashed or not was):
        return
    if report.get("code") != today and not hashed:
        print(f"{name} on {topology}: of unknown programs, to be compiled anew", flush=True)
        path.unlink()
        return
    now = aot.lowered(configs.load(name, overrides), topology, objectives)
    if hashed and was != now:
        print(f"{name} on {topology}: another program, to be compiled anew", flush=True)
        path.unlink()
        return
    print(f"{name} on {topology}: {'the same program' if hashed else 'its hash is kept'}", flush=True)
    for p in report["programs"]:
        p["lowered"] = now[p["name"]]
    path.write_text(json.dumps({**report, "code": today}))


def _scaled(name: str) -> str:
    return f"scaled-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


READ = ("topology", "limit", "state", "fits", "line", "code")
READ_OF_PROGRAM = ("name", "lowered", "needed", "fits", "memory", "flops", "bytes", "roofline", "seconds")
"""What `row` and the slices read of a report and of its programs."""
COLUMNS = (
    *("config", "as many more", "smallest slice", "compiled for", "program", "GiB a device", "of it temporaries"),
    *("TFLOP", "compiled / traced", "GB moved", "roofline ms", "bound", "collectives", "MB exchanged", "relayout GB"),
    "compile s",
)


def row(name: str, more: Any, least: str, slice_: str, p: dict[str, Any]) -> list[Any]:
    """One program of a report."""
    if "error" in p:
        return [
            name,
            more,
            least,
            slice_,
            p["name"],
            f"{gib(p['needed'])}: too much" if p["needed"] else "too much",
            *"-" * 10,
        ]
    moved, f, r = p["bytes"], p["flops"], p["roofline"]
    return [
        *(name, more, least, slice_, p["name"], p["needed"] / 2**30, p["memory"]["temporaries"] / 2**30),
        *(f["compiled"] / 1e12, "-" if f["ratio"] is None else f["ratio"], moved["memory"] / 1e9),
        *(r["step"] * 1e3, r["bound"], sum(c["count"] for c in p["collectives"])),
        *(sum(c["bytes"] for c in p["collectives"]) / 1e6, p["relayouts"]["bytes"] / 1e9, p["seconds"]["compile_cpu"]),
    ]


def _file(root: Path, key: str, topology: str) -> Path:
    return root / f"{key}.{topology.replace(':', '_')}.json"


def _kept(root: Path, key: str) -> dict[str, dict[str, Any]]:
    """What has been compiled, by topology from the smallest on. Updates alone count where nothing else was possible."""
    found = {}
    for topology in (ONE, *SLICES):
        for name in (key, f"{key}.updates"):
            if (path := _file(root, name, topology)).is_file():
                found[topology] = json.loads(path.read_text())
    return found


def known(root: Path, program: Program) -> dict[str, Any] | None:
    """The report of the smallest slice of what has been compiled; None where that is nothing."""
    found = [report for report in _kept(root, program.key).values() if "programs" in report]
    return next((report for report in found if report["fits"]), found[-1] if found else None)


def restore(root: Path) -> None:
    """Lays what the results file holds into DIR, where DIR does not hold it."""
    file = results.FOLDER / f"{NAME}.json"
    for entry in json.loads(file.read_text(encoding="utf-8"))["raw"] if file.is_file() else ():
        path = root / entry["file"]
        if not path.is_file():
            root.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(entry["report"]))


def _held(root: Path, program: Program) -> bool | None:
    """Whether one chip holds what the figures of four say that it does; None where it was not compiled."""
    found = _kept(root, program.key)
    if ONE not in found or FIRST not in found or not found[FIRST].get("fits") or _of_limit(found[FIRST], ONE) >= 1:
        return None
    return found[ONE]["fits"]


def table(root: Path, found: list[Program]) -> None:
    """Writes docs/results/pods.{json,md} of what is in DIR."""
    rows, grown, left = [], [], []
    for program in sorted(found, key=lambda p: p.name):
        report = known(root, program)
        if report is None:
            left.append(program.name)
            continue
        slice_ = report["topology"]["name"]
        least = slice_ if report["fits"] else f"more than {slice_}"
        if slice_ == FIRST and report["fits"] and _of_limit(report, ONE) < 1:
            least = f"{ONE}, by these figures"
        for p in report["programs"]:
            rows.append(row(program.name, len(program.same) or "-", least, slice_, p))
    for name in SCALED:
        reports = {}
        keys = {topology: _scaled(name) for topology in SIZES} | {SIZES[0]: _what_is_compiled(name)[0]}
        for topology, key in keys.items():
            path = _file(root, key, topology)
            if path.is_file() and "programs" in (report := json.loads(path.read_text())):
                reports[topology] = report
                updates = [p for p in report["programs"] if p["name"].startswith("objective")]
                rows += [row(f"{name} (fixed rows a chip)", "-", "-", topology, p) for p in updates]
        if len(reports) > 1:
            (a, small), *_, (b, large) = reports.items()
            for p, q in zip(small["programs"], large["programs"]):
                lines = costs.growth(p, q) if "error" not in p and "error" not in q else ["does not fit"]
                grown.append(f"- {name}, {p['name']}, {a} to {b}: {'; '.join(lines[:6]) or 'nothing grows'}")
            grown.append(f"  Why: {WHY[name]}.")
    both = [held for program in found if (held := _held(root, program)) is not None]
    note = [
        "GiB a device: all that a device holds while the program runs, the whole state and the next batch with it, of "
        "the 15.75 GiB that a v5e has for a program; 0.75 of them are kept for its code, which is not generated. "
        "TFLOP, GB and MB: a device and update, all turns of loops counted; a loop of unknown length counts once. "
        "roofline: the least time that products, memory or network need; nothing was measured. as many more: configs "
        "that compile to the same program. A smaller slice was compiled and does not hold it, or would need by these "
        f"figures {UNSURE} times what it has. by these figures: one chip was not compiled, but the state and four "
        f"times what each of the four chips holds beside it is less than it has; of {len(both)} where both were "
        f"compiled, one chip held {sum(both)}.",
    ]
    if grown:
        note += ["", "What a device does more of as the slice grows, with as many rows a chip:", "", *grown]
    if left:
        note += ["", f"Not compiled yet: {_counted(left)}."]
    note += _of_other_code(root, found)
    whole = {key for name in SCALED for key in (_scaled(name), _what_is_compiled(name)[0])}
    keys = {path: path.name.split(".")[0] for path in sorted(root.glob("*.json"))}
    wanted = {path: key in whole for path, key in keys.items() if key in whole.union(p.key for p in found)}
    raw = [{"file": path.name, "report": _report(path, whole)} for path, whole in wanted.items()]
    results.save(NAME, "Published configs on TPU v5e", COLUMNS, rows, "\n".join(note), raw)


def _of_other_code(root: Path, found: Sequence[Program]) -> list[str]:
    """Paragraphs of the note: whose figures are of other code than today's, and of how many nobody knows."""
    changed, unknown = [], []
    for program in found:
        report = known(root, program)
        if report is None:
            continue
        if "code" not in report:
            unknown.append(program.name)
        elif report["code"] != code_of(_method(program.name)):
            changed.append(program.name)
    rows = (("Compiled from other code than today's", changed), ("Compiled from code that is unknown", unknown))
    return [line for what, names in rows if names for line in ("", f"{what}: {_counted(names)}.")]


def _counted(names: Sequence[str]) -> str:
    """How many of each config file."""
    files = collections.Counter(name.split(":")[0] for name in names)
    return ", ".join(f"{n} of {file}" for file, n in sorted(files.items()))


def _method(name: str) -> str:
    """Of a published config: its folder's name."""
    return name.split("/")[0]


def _report(path: Path, whole: bool) -> dict[str, Any]:
    """A report, if not whole with what the table reads of it: all of all are tens of megabytes."""
    report = json.loads(path.read_text())
    if whole or "programs" not in report:
        return report
    return {
        **{name: report[name] for name in READ if name in report},
        "programs": [_read_of(p) for p in report["programs"]],
    }


def _read_of(p: Mapping[str, Any]) -> dict[str, Any]:
    """What the table reads of a program; its exchanges and copies as sums."""
    found = {name: p[name] for name in (*READ_OF_PROGRAM, "error") if name in p}
    if "collectives" in p:
        found["collectives"] = [{key: sum(c[key] for c in p["collectives"]) for key in ("count", "bytes")}]
        found["relayouts"] = {"bytes": p["relayouts"]["bytes"]}
    return found


def _compile(root: Path, found: Sequence[Program], jobs: int, leads: Mapping[str, Program], one: bool = False) -> None:
    def compile(program: Program) -> None:
        report = smallest(root, program, one, _start(root, leads[_file_of(program)]))
        print(f"{program.name}: {report.get('line') or report['refused']}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile, found))


def _start(root: Path, lead: Program) -> str:
    """The slice that holds the first config of a file, where that has been compiled."""
    report = known(root, lead)
    name = report["topology"]["name"] if report and report["fits"] else FIRST
    return name if name in SLICES else FIRST


def _file_of(program: Program) -> str:
    return program.name.split(":")[0]


def main() -> None:
    """Compiles what is not there yet, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--only", default="", help="a method")
    parser.add_argument("--rows", type=int, default=10**6, help="so many programs at most")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    parser.add_argument("--anew", action="store_true", help="compile what the results file holds, too")
    parser.add_argument("--renew", action="store_true", help="compile what other code made another program of, too")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    args = parser.parse_args()
    found = programs(args.only)
    if not args.anew:
        restore(args.root)
    if args.renew:
        renew(args.root, found)
    if not args.table:
        leads = {_file_of(p): p for p in found if p.leads}
        _compile(args.root, list(leads.values())[: args.rows], args.jobs, leads)
        for name in SCALED:
            if name.startswith(args.only):
                for topology, report in of_sizes(args.root, name):
                    print(f"{name} on {topology}: {report.get('line') or report['refused']}", flush=True)
        _compile(args.root, found[: args.rows], args.jobs, leads)
        _compile(args.root, list(leads.values())[: args.rows], args.jobs, leads, one=True)
    table(args.root, programs() if args.only else found)


if __name__ == "__main__":
    main()
