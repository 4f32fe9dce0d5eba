"""`jaxvl aot`: compiles the real steps for devices that are not here, and says what they cost and whether they fit.

Nothing is read from disk but the config, and nothing is computed: a step's shapes follow from the config.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxvl.core import chips, costs, flops, memory, session, sharding
from jaxvl.core import config as configs
from jaxvl.core.chips import Topology
from jaxvl.core.errors import InputError
from jaxvl.core.programs import Program

QUICK = -1.0
"""`exec_time_optimization_effort` that compiles in minutes; a run compiles with 0, and takes less memory."""
TRIALS = 8
PREDICT = "predict"
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
    """effort: of the TPU compiler, None on CPUs. limit: bytes that a device has for a program, and `whose` they are."""

    effort: float | None
    limit: float
    whose: str


def aot(
    config: ConfigDict,
    topology: str,
    *,
    objectives: Sequence[str] = (),
    also: str = "next",
    effort: float = QUICK,
    hbm: float | None = None,
    trials: int = TRIALS,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Compiles every program of `config` for `topology` and returns all figures (`docs/howto/pods.md` explains them).

    objectives: names, and `predict`; empty: all. also: a second topology, where the same objectives are compiled with
    as many rows a device; `next`: with at least four times the chips; `none`. hbm: GiB of a device, in place of the
    chip's. trials: how many changes are compiled at most where something does not fit. Raises InputError.
    """
    here = chips.parse(topology)
    other = _second(here, also)
    if other is not None and other.chip is None and other.count > here.count:
        other.devices()  # first, as a process makes its simulated devices once
    devices = here.devices()
    config = configs.with_length(config, configs.NOMINAL_EPOCH)
    settings = _settings(here, effort, hbm)
    compiled = session.compile_method(config, devices=devices)
    jobs = list(_jobs(compiled, objectives))
    low = config.precision.compute in ("bfloat16", "bf16")
    plain = _plain(config, devices)
    state = costs.of_state(compiled.target)
    programs = []
    for job in jobs:
        say(f"compiling {job.name} for {here.name} ({len(programs) + 1} of {len(jobs)})")
        programs.append(_measured(job, compiled, here, settings, low, plain, sum(state.values())))
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


def _second(here: Topology, also: str) -> Topology | None:
    if also == "none":
        return None
    if also == "next":
        return chips.larger(here, 4) or chips.larger(here)
    other = chips.parse(also, "--also")
    if (other.chip is None) != (here.chip is None):
        raise InputError(f"--also {also}: is of another kind than {here.name}, so nothing could be compared")
    return other


def _settings(here: Topology, effort: float, hbm: float | None) -> Settings:
    if here.chip is not None:
        limit, whose = here.chip.usable, f"a device of {here.chip.name} has for a program"
        return Settings(effort, (hbm or limit) * 2**30, whose if hbm is None else "given by --hbm")
    share = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / here.count
    if hbm is not None:
        return Settings(None, hbm * 2**30, "given by --hbm")
    return Settings(None, share, f"a device's share of this machine's memory, of {here.count}")


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
        for batch in method.predict_spec:
            for stream, fields in batch.items():
                for field, x in fields.items():
                    where = f"batch size of stream {stream!r} ({field}) of the evaluation"
                    sharding.check_batch_size(x.shape[0], compiled.mesh, where)
            yield Job(f"predict of {', '.join(batch)}", compiled.predict, variables, batch)


def _plain(config: ConfigDict, devices: Sequence[Any]) -> session.Compiled | None:
    """The same method without what computes again, to count FLOPs; None where it is that already."""
    if config.precision.remat == "none" and config.train.accumulate == 1:
        return None
    return session.compile_method(_changed(config, ("precision.remat=none", "train.accumulate=1")), devices=devices)


def _changed(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    return configs.apply(configs.from_json(configs.to_json(config)), overrides)


# -- one program


def _measured(
    job: Job,
    compiled: session.Compiled,
    here: Topology,
    settings: Settings,
    low: bool,
    plain: session.Compiled | None,
    state: int,
) -> dict[str, Any]:
    """All figures of a program, or why there are none: `error`. `needed` is what a device holds while it runs: the
    program's own, what of the state is not its argument, and the next batch."""
    seconds, begin = {}, time.monotonic()
    traced = job.program.trace(job.first, job.batch)
    seconds["trace"] = time.monotonic() - begin
    lowered = traced.lower()
    seconds["lower"] = time.monotonic() - begin - seconds["trace"]
    compiled_program, found, spent = _compile(lowered, settings)
    figures: dict[str, Any] = {
        "name": job.name,
        "batch": {s: {k: f"{x.dtype}{list(x.shape)}" for k, x in fields.items()} for s, fields in job.batch.items()},
        "batch_bytes": costs.of_batch(job.batch, compiled.mesh),
        "effort": settings.effort,
        "seconds": {**seconds, **spent},
    }
    if compiled_program is None:
        return {**figures, "error": found, "needed": memory.needed(found), "fits": False}
    counted = traced
    if plain is not None and job.updates:
        counted = plain.updates[job.objective].trace(plain.target, job.batch)
    total = flops.of_jaxpr(counted.jaxpr.jaxpr, platform="cpu" if here.chip is None else "tpu")
    of, program = costs.of_program(compiled_program, compiled.mesh.shape, total, here.chip, low)
    batch = figures["batch_bytes"]
    resident = _resident(of["memory"], batch, state)
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


def _compile(lowered: Any, settings: Settings) -> tuple[Any, str, dict[str, float]]:
    """`(executable or None, what the compiler said, seconds)`. Only want of memory is an answer; other errors pass."""
    options = None if settings.effort is None else {"exec_time_optimization_effort": float(settings.effort)}
    begin, cpu = time.monotonic(), time.process_time()
    found, said = None, ""
    try:
        found = lowered.compile(options)
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
            plain = _plain(scaled, devices)
            low = config.precision.compute in ("bfloat16", "bf16")
            state = sum(costs.of_state(compiled.target).values())
            figures = _measured(job, compiled, other, settings, low, plain, state)
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
    names, seen = {job.name for job in failing}, {(settings.effort, here.name, *texts)}
    tried, refusals = 0, set()
    for what, overrides, effort, topology in _changes(config, here, failing, settings):
        row: dict[str, Any] = {"change": what, "fits": False, "needed": None}
        if tried == most:
            return
        try:
            compiled = session.compile_method(_changed(config, overrides), devices=topology.devices())
            found = _jobs(compiled, (), predict=not all(job.updates for job in failing))
            jobs = [job for job in found if job.name in names]
        except InputError as error:
            if str(error) not in refusals:  # more of the same is refused likewise
                yield {**row, "refused": str(error)}
            refusals.add(str(error))
            continue
        lowered = {job.name: job.program.trace(job.first, job.batch).lower() for job in jobs}
        program = (effort, topology.name, *(x.as_text() for x in lowered.values()))
        if program in seen:
            yield {**row, "refused": "changes nothing in this method"}
            continue
        seen.add(program)
        tried += 1
        say(f"trying {what}")
        state = sum(costs.of_state(compiled.target).values())
        needs = [_needs(lowered[job.name], job, compiled, effort, state, settings) for job in jobs]
        row["needed"] = max((n for n, _ in needs if n), default=None)
        row["fits"] = all(fits for _, fits in needs)
        yield row
        if row["fits"]:
            return


def _needs(lowered, job, compiled, effort, state, settings) -> tuple[float | None, bool]:
    found, said, _ = _compile(lowered, dataclasses.replace(settings, effort=effort))
    if found is None:
        return memory.needed(said), False
    held, batch = costs.of_memory(found), costs.of_batch(job.batch, compiled.mesh)
    needed = held["total"] + _resident(held, batch, state) + batch
    return needed, needed <= settings.limit


def _changes(
    config: ConfigDict, here: Topology, failing: Sequence[Job], settings: Settings
) -> Iterator[tuple[str, tuple[str, ...], float | None, Topology]]:
    """`(what to say, overrides, effort, topology)`, the smallest change first: none at all (a run's own effort), what
    computes again, the batch in pieces, parameters spread, a larger slice. For `predict`, fewer rows a call."""
    effort, devices = settings.effort, here.count
    if effort is not None and effort < 0:
        yield "--effort 0 (as a run compiles)", (), 0.0, here
    if any(job.updates for job in failing):
        policies = ("none", "dots", "full")
        for remat in policies[policies.index(config.precision.remat) + 1 :]:
            yield f"--config.precision.remat={remat}", (f"precision.remat={remat}",), effort, here
        for parts in (2, 4, 8):
            again = config.train.accumulate * parts
            yield f"--config.train.accumulate={again}", (f"train.accumulate={again}",), effort, here
    else:
        rows = {k: v for k, v in config.data.items() if k.startswith("eval") and k.endswith("batch_size")}
        for name, size in rows.items():
            for part in (2, 4):
                if size % (part * devices) == 0:
                    yield f"--config.data.{name}={size // part}", (f"data.{name}={size // part}",), effort, here
    for fsdp in dict.fromkeys((min(4, devices), devices)):
        if fsdp > config.mesh.fsdp and devices % fsdp == 0:
            own = f"mesh.fsdp={fsdp}"
            yield f"--config.{own}", ("mesh.data=-1", own), effort, here
            if any(job.updates for job in failing) and config.precision.remat != "full":
                both = ("mesh.data=-1", own, "precision.remat=full")
                yield f"--config.{own} --config.precision.remat=full", both, effort, here
    slices = [chips.larger(here, times) for times in (2, 4, 8)] if here.chip is not None else []
    for name in dict.fromkeys(found.name for found in slices if found is not None):
        yield f"--topology {name}", (), effort, chips.parse(name)


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
