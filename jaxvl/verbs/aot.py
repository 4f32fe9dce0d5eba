"""`jaxvl aot`: compiles the real steps for devices that are not here, and says what they cost and whether they fit.

Nothing is read from disk but the config, and nothing is computed: a step's shapes follow from the config. For a TPU
each program is compiled in a process of its own, which ends before machine code is generated (`core/laid_out.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvl.core import chips, costs, flops, laid_out, memory, session, sharding
from jaxvl.core import config as configs
from jaxvl.core.chips import Topology
from jaxvl.core.errors import InputError
from jaxvl.core.programs import Program

CODE = 0.75 * 2**30
"""Bytes kept for machine code where none is generated."""
TRIALS = 8
PREDICT = "predict"
DEFAULT = "default"
EFFORTS = {"O0": 9, "O1": 19, "O2": 29, "O3": 39}
"""XLA's effort levels, and their numbers in its options (openxla.org/xla/effort_levels)."""
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """One program of a config: an objective's update, or `predict` for one of its batches."""

    name: str
    program: Program
    first: Any
    batch: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]
    objective: str = ""

    @property
    def updates(self) -> bool:
        """Whether it is an update of the state."""
        return bool(self.objective)


@dataclasses.dataclass(frozen=True)
class Settings:
    """code: whether machine code is generated. effort: of the compiler, a key of `EFFORTS`, or "default". limit: bytes
    that a device has for a program, and `whose` they are."""

    code: bool
    effort: str
    limit: float
    whose: str


def aot(
    config: ConfigDict,
    topology: str,
    *,
    objectives: Sequence[str] = (),
    also: str = "next",
    code: bool = False,
    effort: str | None = None,
    hbm: float | None = None,
    trials: int = TRIALS,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Compiles every program of `config` for `topology` and returns all figures (`docs/howto/pods.md` explains them).

    objectives: names, and `predict`; empty: all. also: a second topology, where the same objectives are compiled with
    as many rows a device; `next`: with at least four times the chips; `none`. code: have the TPU compiler generate
    code, too: minutes, for its size and for XLA's own analysis of bytes. effort: of the compiler, a key of `EFFORTS`;
    None: as a run, by `JAX_OPTIMIZATION_LEVEL` where that is set. hbm: GiB of a device, in place of the chip's.
    trials: how many changes are compiled at most where something does not fit. Raises InputError.
    """
    here = chips.parse(topology)
    other = _second(here, also)
    if other is not None and other.chip is None and other.count > here.count:
        other.devices()  # first, as a process makes its simulated devices once
    devices = here.devices()
    config = configs.with_length(config, configs.NOMINAL_EPOCH)
    settings = _settings(here, code, _effort(effort), hbm)
    compiled = session.compile_method(config, devices=devices)
    jobs = list(_jobs(compiled, objectives))
    state = costs.of_state(compiled.target)
    programs = []
    for job in jobs:
        say(f"compiling {job.name} for {here.name} ({len(programs) + 1} of {len(jobs)})")
        programs.append(_figures(config, here, compiled, job, settings))
    report = {
        "method": config.method,
        "precision": config.precision.to_dict(),
        "accumulate": config.train.accumulate,
        "topology": _of_topology(here, devices, compiled.mesh),
        "limit": {"bytes": settings.limit, "whose": settings.whose},
        "state": state,
        "hosts": _of_hosts(compiled, programs),
        "programs": programs,
        "second": None,
    }
    if other is not None and any(job.updates for job in jobs):
        report["second"] = _at_second_size(config, here, other, jobs, programs, settings, say)
    failing = [job for job, found in zip(jobs, programs) if not found["fits"]]
    report["fits"] = not failing
    report["trials"] = list(_trials(config, here, failing, settings, trials, say)) if failing else []
    report["line"] = _last_line(report)
    return report


def lowered(config: ConfigDict, topology: str, objectives: Sequence[str] = ()) -> dict[str, str]:
    """Name -> the `lowered` that `aot` gives with its figures: a hash of what the compiler is given.

    Where it is the same for other code, so are the figures, and nothing has to be compiled. objectives: as for `aot`.
    Raises InputError.
    """
    config = configs.with_length(config, configs.NOMINAL_EPOCH)
    jobs = _jobs(session.compile_method(config, devices=chips.parse(topology).devices()), objectives)
    return {job.name: _digest(job.program.trace(job.first, job.batch).lower().as_text()) for job in jobs}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _second(here: Topology, also: str) -> Topology | None:
    if also == "none":
        return None
    if also == "next":
        return chips.larger(here, 4) or chips.larger(here)
    other = chips.parse(also, "--also")
    if other.chip != here.chip:
        raise InputError(f"--also {also}: is of another kind than {here.name}, so nothing could be compared")
    return other


def _effort(asked: str | None) -> str:
    if asked is not None and asked not in EFFORTS:
        raise InputError(f"effort {asked!r}: there are {', '.join(EFFORTS)}")
    level = asked or jax.config.jax_optimization_level
    return level if level in EFFORTS else DEFAULT


def _settings(here: Topology, code: bool, effort: str, hbm: float | None) -> Settings:
    code = code or here.chip is None
    if hbm is not None:
        return Settings(code, effort, hbm * 2**30, "given by --hbm")
    if here.chip is not None:
        kept = "" if code else f", less {memory.gib(CODE)} for its code"
        limit = here.chip.usable * 2**30 - (0 if code else CODE)
        return Settings(code, effort, limit, f"a device of {here.chip.name} has for a program{kept}")
    share = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / here.count
    return Settings(code, effort, share, f"a device's share of this machine's memory, of {here.count}")


def _of_topology(here: Topology, devices: Sequence[Any], mesh: sharding.Mesh) -> dict[str, Any]:
    chip = None
    if here.chip is not None:
        chip = {k: v for k, v in dataclasses.asdict(here.chip).items() if k not in ("slices", "options")}
    return {
        "name": here.name,
        "chips": here.chips,
        "devices": len(devices),
        "hosts": len({d.process_index for d in devices}),
        "kind": devices[0].device_kind,
        "mesh": dict(mesh.shape),
        "chip": chip,
    }


def _jobs(compiled: session.Compiled, wanted: Sequence[str], predict: bool = True) -> Iterator[Job]:
    """The programs of a run, those of `wanted` alone where it names any. Raises InputError for names that are none."""
    method, spec = compiled.method, compiled.method.batch_spec
    for name in wanted:
        if name not in (*method.objectives, PREDICT):
            known = ", ".join((*method.objectives, PREDICT))
            raise InputError(f"--objective {name}: {method.name} has none of this name; there are {known}")
    for name, objective in method.objectives.items():
        if not wanted or name in wanted:
            batch = {s: dict(spec[s]) for s in objective.streams}
            yield Job(f"objective {name}", compiled.updates[name], compiled.target, batch, name)
    if predict and (not wanted or PREDICT in wanted):
        variables = compiled.target.variables(compiled.config.eval.use_ema)
        seen: list[str] = []
        for batch in method.predict_spec:
            for stream, fields in batch.items():
                for field, x in fields.items():
                    where = f"batch size of stream {stream!r} ({field}) of the evaluation"
                    sharding.check_batch_size(x.shape[0], compiled.mesh, where)
            name = f"predict of {', '.join(batch)}"
            seen.append(name)
            again = f" ({seen.count(name)})" if seen.count(name) > 1 else ""  # the same streams in other shapes
            yield Job(f"{name}{again}", compiled.predict, variables, batch)


def _plain(config: ConfigDict, devices: Sequence[Any]) -> session.Compiled | None:
    """The same method without what computes again, to count FLOPs; None where it is that already."""
    if config.precision.remat == "none" and config.train.accumulate == 1:
        return None
    return session.compile_method(_changed(config, ("precision.remat=none", "train.accumulate=1")), devices=devices)


def _changed(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    return configs.apply(configs.from_json(configs.to_json(config)), overrides)


# -- one program


def _figures(
    config: ConfigDict, here: Topology, compiled: session.Compiled, job: Job, settings: Settings
) -> dict[str, Any]:
    """All figures of a program, or why there are none: `error`. `needed` is what a device holds while it runs: the
    program's own, what of the state is not its argument, and the next batch."""
    if settings.code:
        return _measured(config, here, compiled, job, settings)
    with tempfile.TemporaryDirectory() as folder:
        asked = {"config": configs.to_json(config), "topology": here.name, "job": job.name, "folder": folder}
        asked["settings"] = dataclasses.asdict(settings)
        command = [sys.executable, "-m", "jaxvl.verbs.aot"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}  # no TPU or GPU of this machine is needed
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, env=environment)
        if (found := Path(folder, "figures.json")).is_file():
            return json.loads(found.read_text(encoding="utf-8"))
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    raise RuntimeError(f"the process that compiles {job.name} ended with code {done.returncode}: {said[-1]}")


def _in_its_own_process() -> None:
    """The other side of `_figures`."""
    asked = json.load(sys.stdin)
    folder = Path(asked["folder"])
    settings = Settings(**asked["settings"])
    figures = alone(configs.from_json(asked["config"]), asked["topology"], asked["job"], settings, folder / "compiler")
    part = folder / "figures.part"
    part.write_text(json.dumps(figures), encoding="utf-8")
    part.rename(part.with_suffix(".json"))
    os._exit(0)


def alone(config: ConfigDict, topology: str, job: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Figures of one program, by its name (`objective NAME`), in this process, which has to end then by `os._exit`: the
    compiler goes on in it. folder: is made, for the compiler's files."""
    here = chips.parse(topology)
    compiled = session.compile_method(config, devices=here.devices())
    found = next(found for found in _jobs(compiled, ()) if found.name == job)
    folder.mkdir(parents=True)
    return _measured(config, here, compiled, found, settings, folder)


def _measured(
    config: ConfigDict,
    here: Topology,
    compiled: session.Compiled,
    job: Job,
    settings: Settings,
    folder: Path | None = None,
) -> dict[str, Any]:
    """`_figures`, in this process. folder: for the compiler's files, where it is left before it generates code."""
    seconds, begin = {}, time.monotonic()
    traced = job.program.trace(job.first, job.batch)
    seconds["trace"] = time.monotonic() - begin
    lowered = traced.lower()
    seconds["lower"] = time.monotonic() - begin - seconds["trace"]
    compiled_program, found, spent = _compile(lowered, settings.effort, folder)
    figures: dict[str, Any] = {
        "name": job.name,
        "batch": {s: {k: f"{x.dtype}{list(x.shape)}" for k, x in fields.items()} for s, fields in job.batch.items()},
        "batch_bytes": costs.of_batch(job.batch, compiled.mesh),
        "lowered": _digest(lowered.as_text()),
        "seconds": {**seconds, **spent},
        "compiler": {"effort": settings.effort, "code": settings.code},
    }
    if compiled_program is None:
        return {**figures, "error": found, "needed": memory.needed(found), "fits": False}
    plain = _plain(config, here.devices()) if job.updates else None
    counted = traced if plain is None else plain.updates[job.objective].trace(plain.target, job.batch)
    total = flops.of_jaxpr(counted.jaxpr.jaxpr, platform="cpu" if here.chip is None else "tpu")
    low = config.precision.compute in ("bfloat16", "bf16")
    of, program = costs.of_program(compiled_program, compiled.mesh.shape, total, here.chip, low)
    batch = figures["batch_bytes"]
    resident = _resident(of["memory"], batch, sum(costs.of_state(compiled.target).values()))
    needed = of["memory"]["total"] + resident + batch
    figures |= {**of, "resident": resident, "needed": needed, "fits": needed <= settings.limit}
    if job.updates:
        figures["donation"] = costs.donated(program, compiled.target)
        step = of["roofline"]["step"]
        size = costs.input_of_host(job.batch, compiled.mesh)
        figures["input"] = {"bytes": size, "per_second": size / step if step else None}
    return figures


def _resident(held: Mapping[str, int], batch: int, state: int) -> int:
    """Bytes of the state that are no argument of a program, and lie beside it."""
    return max(0, state - max(0, held["arguments"] - batch))


def _compile(lowered: Any, effort: str, folder: Path | None = None) -> tuple[Any, str, dict[str, float]]:
    """`(executable or None, what the compiler said, seconds)`. Only want of memory is an answer; other errors pass."""
    options = {} if effort == DEFAULT else {"optimization_level": EFFORTS[effort]}
    begin, cpu = time.monotonic(), time.process_time()
    found, said = None, ""
    try:
        found = lowered.compile(options) if folder is None else laid_out.lay_out(lowered, options, folder)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).splitlines()[0]
    spent = {"compile": time.monotonic() - begin, "compile_cpu": time.process_time() - cpu}
    return found, said, spent


def _of_hosts(compiled: session.Compiled, programs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """batch rows -> host -> rows that it feeds."""
    sizes = {x.shape[0] for fields in compiled.method.batch_spec.values() for x in fields.values()}
    return {str(size): costs.rows_of_hosts(compiled.mesh, size) for size in sorted(sizes)}


# -- a second size


def _at_second_size(config, here, other, jobs, programs, settings, say) -> dict[str, Any]:
    """The objectives on another slice with as many rows a device, and what grows. `refused`: why there is none."""
    names = [job.objective for job in jobs if job.updates]
    devices = other.devices()
    ratio = len(devices) / here.count
    found: dict[str, Any] = {"topology": other.name, "devices": len(devices), "programs": [], "grows": {}}
    try:
        scaled = _with_rows(config, ratio)
        compiled = session.compile_method(scaled, devices=devices)
        for job in _jobs(compiled, names, predict=False):
            say(f"compiling {job.name} for {other.name}, as many rows a device")
            figures = _figures(scaled, other, compiled, job, settings)
            found["programs"].append(figures)
            small = next(p for p in programs if p["name"] == job.name)
            if "error" not in figures and "error" not in small:
                found["grows"][job.name] = costs.growth(small, figures)
    except InputError as error:
        found["refused"] = str(error)
    return found


def _with_rows(config: ConfigDict, ratio: float) -> ConfigDict:
    """All batch sizes of the data times `ratio`: fields of `config.data` whose name ends in `batch_size`."""
    sizes = {k: v for k, v in config.data.items() if k.endswith("batch_size") and isinstance(v, int)}
    for name, size in sizes.items():
        if size * ratio != int(size * ratio):
            raise InputError(
                f"config.data.{name}: {size} times {ratio:g}, as there are more devices, is no whole number"
            )
    return _changed(config, [f"data.{name}={int(size * ratio)}" for name, size in sizes.items()])


# -- what makes it fit


def _trials(
    config: ConfigDict, here: Topology, failing: Sequence[Job], settings: Settings, most: int, say: Say
) -> Iterator[dict[str, Any]]:
    """Changes, the smallest first, each compiled until one makes everything fit."""
    texts = [job.program.trace(job.first, job.batch).lower().as_text() for job in failing]
    names, seen = {job.name for job in failing}, {(here.name, *texts)}
    tried, refusals = 0, set()
    for what, overrides, topology in _changes(config, here, failing):
        row: dict[str, Any] = {"change": what, "fits": False, "needed": None}
        if tried == most:
            return
        try:
            changed = _changed(config, overrides)
            compiled = session.compile_method(changed, devices=topology.devices())
            found = _jobs(compiled, (), predict=not all(job.updates for job in failing))
            jobs = [job for job in found if job.name in names]
        except InputError as error:
            if str(error) not in refusals:  # more of the same is refused likewise
                yield {**row, "refused": str(error)}
            refusals.add(str(error))
            continue
        texts = [job.program.trace(job.first, job.batch).lower().as_text() for job in jobs]
        program = (topology.name, *texts)
        if program in seen:
            yield {**row, "refused": "changes nothing in this method"}
            continue
        seen.add(program)
        tried += 1
        say(f"trying {what}")
        figures = [_figures(changed, topology, compiled, job, settings) for job in jobs]
        row["needed"] = max((f["needed"] for f in figures if f["needed"]), default=None)
        row["fits"] = all(f["fits"] for f in figures)
        yield row
        if row["fits"]:
            return


def _changes(
    config: ConfigDict, here: Topology, failing: Sequence[Job]
) -> Iterator[tuple[str, tuple[str, ...], Topology]]:
    """`(what to say, overrides, topology)`, the smallest change first: what computes again, the batch in pieces,
    parameters spread, a larger slice, with rows of an evaluation's batch for all of it. For `predict`, fewer rows a
    call."""
    devices = here.count
    rows = {k: v for k, v in config.data.items() if k.startswith("eval") and k.endswith("batch_size")}
    if any(job.updates for job in failing):
        policies = ("none", "dots", "full")
        for remat in policies[policies.index(config.precision.remat) + 1 :]:
            yield f"--config.precision.remat={remat}", (f"precision.remat={remat}",), here
        for parts in (2, 4, 8):
            again = config.train.accumulate * parts
            yield f"--config.train.accumulate={again}", (f"train.accumulate={again}",), here
    else:
        for name, size in rows.items():
            for part in (2, 4):
                if size % (part * devices) == 0:
                    yield f"--config.data.{name}={size // part}", (f"data.{name}={size // part}",), here
    for fsdp in dict.fromkeys((min(4, devices), devices)):
        if fsdp > config.mesh.fsdp and devices % fsdp == 0:
            own = f"mesh.fsdp={fsdp}"
            yield f"--config.{own}", ("mesh.data=-1", own), here
            if any(job.updates for job in failing) and config.precision.remat != "full":
                both = ("mesh.data=-1", own, "precision.remat=full")
                yield f"--config.{own} --config.precision.remat=full", both, here
    slices = [chips.larger(here, times) for times in (2, 4, 8)] if here.chip is not None else []
    for name in dict.fromkeys(found.name for found in slices if found is not None):
        larger = chips.parse(name)
        shards = larger.count // max(1, config.mesh.tensor)
        spread = [f"data.{k}={-(-size // shards) * shards}" for k, size in rows.items() if size % shards]
        yield " ".join((f"--topology {name}", *(f"--config.{own}" for own in spread))), tuple(spread), larger


def _last_line(report: Mapping[str, Any]) -> str:
    """`fits: ...` or `does not fit: ...`, with the smallest change that does."""
    limit = memory.gib(report["limit"]["bytes"])
    whose = report["limit"]["whose"]
    if report["fits"]:
        most = max(report["programs"], key=lambda p: p["needed"])
        return f"fits: {memory.gib(most['needed'])} of {limit} ({whose}), {most['name']}"
    bad = [p for p in report["programs"] if not p["fits"]]
    parts = [f"{p['name']} needs {memory.gib(p['needed'])}" if p["needed"] else f"{p['name']} needs more" for p in bad]
    line = f"does not fit: {', '.join(parts)} of {limit} ({whose})"
    good = next((t for t in report["trials"] if t["fits"]), None)
    if good is not None:
        return f"{line}; the smallest change that fits: {good['change']} ({memory.gib(good['needed'])})"
    tried = [t["change"] for t in report["trials"] if "refused" not in t]
    return f"{line}; none of what was tried fits: {', '.join(tried) or 'nothing could be tried'}"


if __name__ == "__main__":
    _in_its_own_process()
