"""`jaxvl train`: config in, trained workdir out. The thin top over the loop of the house."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import (
    diagnose,
    fields,
    following,
    loop,
    memory,
    processes,
    programs,
    registry,
    session,
    sharding,
    storage,
)
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.evaluation import Followed, device_fields, evaluate, mostly_padding
from jaxvl.core.files import printable, replacing, write_text
from jaxvl.core.lease import Lease
from jaxvl.core.method import Data, Evaluator, Examples, Follower, Method, Sequences
from jaxvl.core.writers import Progress, Writer
from jaxvl.data import pipeline
from jaxvl.data.bad_media import BadBudget
from jaxvl.data.left_out import LeftOut
from jaxvl.data.spec import check_batch
from jaxvl.interop import keys, weights
from jaxvl.verbs import report


@dataclasses.dataclass
class Result:
    """What a training run gives.

    metrics: of the last evaluation, None without one. stopped: name of the signal that ended it early, or None. step:
    updates done. recompilations: should be 0. workdir: where checkpoints, metrics and report.html are; as it was given
    where that is in a bucket.
    """

    metrics: dict[str, float] | None
    stopped: str | None
    step: int
    recompilations: int
    workdir: Path | str


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    say: session.Say | None = None,
    data: Data | None = None,
    method: Method | None = None,
    pictures: bool = True,
) -> Result:
    """Trains, resuming from the newest good checkpoint of `workdir`, then evaluates and writes the report.

    `data` and `method` replace what the config would build (benchmarks wire their own).
    """
    workdir = storage.address(workdir) or Path(workdir).absolute()
    config = fields.resolved(config)
    fields.check(config)
    main = jax.process_index() == 0
    tell = say or (_tell if main else lambda line: None)
    with storage.opened(workdir, tell, fetch=False) as place:
        tell = place.saying(tell)
        lease = Lease(place, tell) if main else None
        try:
            if lease is not None:
                place.guard = lease.check
            place.fetch()  # what is there when nobody else is at work there
            with place.kept_up(tell):
                return _train(config, place, resume, fresh, tell, data, method, pictures, lease)
        finally:
            if lease is not None:
                lease.release()


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens, or the disk of the log is full: no reason to stop
        print(printable(line), flush=True)


def _train(
    config: ConfigDict,
    place: storage.Disk,
    resume: bool,
    fresh: bool,
    tell: session.Say,
    data: Data | None,
    method: Method | None,
    pictures: bool,
    lease: Lease | None,
) -> Result:
    main, workdir = jax.process_index() == 0, place.folder
    session.claim_workdir(place, config, resume, fresh, tell)
    programs.keep(workdir)
    data = data or session.build_data(config, place, tell)
    for line in data.reports:
        tell(line)
    config, given = _with_length(config, data, tell), config
    compiled = session.compile_method(config, method)
    checkpoints = Checkpoints(place, config, tell, guard=lease.check if lease is not None else lambda: None)
    restored = checkpoints.restore(compiled.target)
    if restored is None:
        state, start, positions = _first_state(config, compiled, tell), 0, {}
        if data.constants:
            laid = session.lay_constants(state.mutables, data, compiled.shardings.mutables)
            state = state.replace(mutables=laid)
    else:
        state, meta = restored
        start, positions = int(state.step), meta["positions"]
        _check_length(config, meta, resume)
        session.check_constants(state.mutables, data, place)
        checkpoints.set_aside_after(start)
        tell(f"resuming at step {start} of {config.train.steps}")
    left_out = LeftOut()
    streams, consumed = _open_streams(config, compiled, data, positions, workdir, left_out)
    writer = Writer(workdir, active=main, say=tell)
    if restored is not None:
        writer.event(start, "resumed")
    progress = Progress(config.train.steps, start, active=main)
    budget = BadBudget(config.pipeline.max_bad_fraction, bad_log=workdir / "bad_inputs.jsonl")

    run = loop.Run(
        method=compiled.method,
        config=config,
        mesh=compiled.mesh,
        updates=compiled.updates,
        streams=streams,
        check=lambda batch, stream: check_batch(
            device_fields(batch), compiled.method.batch_spec[stream], stream, len(batch["_id"])
        ),
        on_batch=lambda batch: budget.add(len(batch["_id"]), int(np.sum(batch["_replaced"]))),
        explain=lambda state, name, where: diagnose.explain(
            compiled.method.objectives[name], streams, state, where, compiled.mesh
        ),
        evaluate=_evaluation(config, compiled, data, workdir, left_out),
        checkpoints=checkpoints,
        writer=writer,
        progress=progress,
        meta={"config": configs.digest(given), "length": _lengths(config)},
    )
    try:
        with processes.Telling(), loop.StopSignal() as stop:
            evaluated = _evaluated(config, compiled, data, tell) if start < config.train.steps or not start else []
            progress.phase("compiling")
            compiled.compile_ahead(start, evaluated, progress.say)
            with memory.told("training", config):
                outcome = loop.run(run, state, start, consumed, stop)
    finally:
        progress.close()
        writer.close()
        checkpoints.close()
    if outcome.stopped:
        tell(f"stopped by {outcome.stopped} at step {int(outcome.state.step)}; the same command resumes it")
    elif pictures and outcome.metrics is not None:
        session_model = session.Loaded(
            config, workdir, compiled.method, compiled.mesh,
            outcome.state.variables(config.eval.use_ema), compiled.predict, int(outcome.state.step),
        )  # fmt: skip
        session_model = session.on_one_device(session_model)
        if main:
            report.save_pictures(session_model, data)
    if main:
        report.write(place)
    if budget.bad:
        tell(f"{budget.bad} of {budget.seen} training examples could not be read; see {workdir / 'bad_inputs.jsonl'}")
    left_out.tell(tell)
    where = workdir if place.has_locks else str(place)
    return Result(outcome.metrics, outcome.stopped, int(outcome.state.step), outcome.recompilations, where)


def _with_length(config: ConfigDict, data: Data, tell: session.Say) -> ConfigDict:
    """All lengths in updates, and a line that says what they come from where the config gives them in epochs."""
    if all(config.train[name] >= 0 for name in configs.LENGTHS):
        return configs.with_length(config, configs.NOMINAL_EPOCH)
    epoch = data.epoch()
    resolved = configs.with_length(config, epoch)
    stream, examples = next(iter(data.train.items()))
    t = resolved.train
    often = f"every {t.eval_every:,}" if t.eval_every else "at the end"
    tell(
        f"length: an epoch is {epoch:,} updates ({len(examples.source):,} examples of stream {stream!r} in batches of "
        f"{examples.batch_size:,}); {t.steps:,} updates, evaluated {often}, "
        f"saved every {t.checkpoint_every:,}"
    )
    return resolved


def _lengths(config: ConfigDict) -> dict[str, int]:
    return {name: int(config.train[name]) for name in configs.LENGTHS}


def _check_length(config: ConfigDict, meta: Mapping[str, Any], resume: bool) -> None:
    """Refuses to go on with another schedule because the data, and so an epoch, has another size now."""
    before = meta.get("length", {}).get("steps")
    if before not in (None, config.train.steps) and not resume:
        raise InputError(
            f"config.train.epochs: were {before:,} updates when this run began and are {config.train.steps:,} now, as "
            "the data has another size; --resume to go on with the new length, or give --config.train.steps"
        )


def _first_state(config: ConfigDict, compiled: session.Compiled, tell: session.Say):
    """A fresh state, with the weights of `config.init.weights` laid in by the method's `weights.adopt`."""
    if not config.init.weights:
        if config.init.required:
            raise InputError(
                "config.init.weights: this recipe starts from pretrained weights; convert yours with `jaxvl convert` "
                "and name the folder, or set --config.init.required=false to train from random weights"
            )
        return compiled.fresh_state()
    flat, info = _read_weights(config, tell)
    adopt = registry.module(config.method, "weights").adopt
    fresh = {"params": compiled.target.params, **compiled.target.mutables}
    state = compiled.state_with(adopt(config, fresh, flat, info))
    tell(f"starting from {config.init.weights} ({info.get('source', 'unknown source')})")
    own = dict(configs.dotted(config))
    for name, value in info.get("overrides", {}).items():
        if own[name] != value:
            tell(f"config.{name}: {own[name]!r}, but {value!r} in the run that these weights are of")
    return state


def _read_weights(config: ConfigDict, tell: session.Say) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leaves by path (other collections than the parameters under `COLLECTION/path`) and `weights.json`, of a weights
    folder (views of its file) or of the newest checkpoint of a workdir (on the devices, over the mesh of `config`)."""
    source = config.init.weights
    with storage.opened(source, tell, asked=False, field="config.init.weights") as place:
        if not (place.folder / "config.json").is_file():
            flat, info = weights.load_weights(place.folder)
            for name in info.get("collections", []):
                flat |= {f"{name}/{path}": x for path, x in weights.load_weights(place.folder, name)[0].items()}
            return flat, info
        loaded = session.load(place, say=tell, mesh=config.mesh)
    flat = keys.to_flat(dict(loaded.variables))
    return flat, {"source": f"step {loaded.step} of {loaded.config.method}", "method": loaded.config.method}


def stream_seed(seed: int, stream: str) -> int:
    """A stream's own seed, so that two streams of one run are not shuffled alike."""
    return (seed * 1_000_003 + zlib.crc32(stream.encode())) % 2**31


def pipeline_options(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Keyword arguments of the pipeline that training and evaluation share."""
    return {
        "num_workers": config.pipeline.workers,
        "num_threads": config.pipeline.threads,
        "prefetch": config.pipeline.prefetch,
        "on_error": config.pipeline.on_error,
        "bad_log": workdir / "bad_inputs.jsonl",
    }


def _open_streams(config, compiled, data: Data, positions: Mapping[str, int], workdir: Path, left_out: LeftOut):
    openers, consumed = {}, {}
    for name in compiled.method.batch_spec:
        if name not in data.train:
            raise InputError(f"method {compiled.method.name}: its data has no training stream {name!r}")
        examples = data.train[name]
        sharding.check_batch_size(examples.batch_size, compiled.mesh, f"batch size of stream {name!r}")
        position = int(positions.get(name, 0))
        if position % examples.batch_size:
            raise InputError(
                f"batch size of stream {name!r}: the checkpoint stands at example {position}, which "
                f"{examples.batch_size} does not divide; resume with the batch size it was trained with"
            )
        consumed[name] = position // examples.batch_size
        openers[name] = _opener(config, compiled.mesh, name, examples, workdir, left_out)
    return openers, consumed


def _opener(config: ConfigDict, mesh: sharding.Mesh, name: str, examples: Examples, workdir: Path, left_out: LeftOut):
    options = pipeline_options(config, workdir)
    options["rows"] = sharding.rows_of_process(mesh, examples.batch_size, jax.process_index())
    seed = stream_seed(config.seed, name)
    return lambda start: left_out.watch(pipeline.train_batches(examples, seed=seed, start=start, **options))


def eval_streams(config: ConfigDict, data: Data, split: str, workdir: Path, left_out: LeftOut | None = None):
    """The streams of a split as the evaluation reads them. left_out: counts the videos that lack a beginning."""
    left_out = left_out or LeftOut()
    if split not in data.splits:
        raise InputError(f"split {split!r}: the data has {', '.join(sorted(data.splits)) or 'none'}")
    options = pipeline_options(config, workdir)
    found = {}
    for name, e in data.splits[split].items():
        if isinstance(e, Sequences):
            found[name] = Followed(e, config.pipeline.threads, config.pipeline.on_error)
            continue
        read = lambda rows, e=e: left_out.watch(  # noqa: E731
            pipeline.eval_batches(e, seed=config.seed, rows=rows, **options)
        )
        found[name] = (read, len(e.source), e.batch_size)
    return found


def save_evaluation(
    folder: Path, split: str, step: int, metrics: Mapping[str, float], arrays: Mapping[str, Any]
) -> None:
    """`FOLDER/SPLIT.json` (metrics with their step) and `SPLIT.npz` (artifacts). InputError where they cannot be
    written."""
    text = json.dumps({"split": split, "step": step, "metrics": dict(metrics)}, indent=1) + "\n"
    write_text(folder / f"{split}.json", text)
    if arrays:
        with replacing(folder / f"{split}.npz") as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)


def _evaluation(config: ConfigDict, compiled, data: Data, workdir: Path, left_out: LeftOut):
    if not compiled.method.evaluators or not data.splits:
        return None
    asked = {"eval.split": config.eval.split}
    asked |= {"train.eval_split": config.train.eval_split} if config.train.eval_every else {}
    for field, split in asked.items():
        if split not in data.splits:
            raise InputError(f"config.{field}: {split!r}, but the data has {', '.join(sorted(data.splits))}")

    def run(state) -> dict[str, float]:
        final = int(state.step) == config.train.steps
        split = config.eval.split if final else config.train.eval_split
        variables = state.variables(config.eval.use_ema)
        streams = eval_streams(config, data, split, workdir, left_out)
        metrics, arrays = evaluate(compiled.method, compiled.predict, variables, streams, compiled.mesh, split)
        if jax.process_index() == 0:
            save_evaluation(workdir / "eval", split, int(state.step), metrics, arrays)
        return metrics

    return run


def _evaluated(config: ConfigDict, compiled, data: Data, tell: session.Say) -> list[dict[str, Any]]:
    """The batches `{stream: fields}` that the evaluations of a run give to `predict`, each once. Tells of splits for
    which most of the devices will idle."""
    method = compiled.method
    if not method.evaluators or not data.splits:
        return []
    streams = [s for e in method.evaluators.values() for s in e.streams]
    found = []
    for split in dict.fromkeys([config.eval.split, *([config.train.eval_split] if config.train.eval_every else [])]):
        for name, examples in data.splits[split].items():
            if name not in streams and all(e.streams for e in method.evaluators.values()):
                continue
            where = f"batch size of stream {name!r} of split {split!r}"
            sharding.check_batch_size(examples.batch_size, compiled.mesh, where)
            source = (
                Followed(examples)
                if isinstance(examples, Sequences)
                else (iter, len(examples.source), examples.batch_size)
            )
            if line := mostly_padding(split, name, source, compiled.mesh):
                tell(line)
            if isinstance(examples, Sequences):
                found += _followed(method, name, examples, found)
                continue
            fields = pipeline.example_fields(examples, seed=config.seed, on_error=config.pipeline.on_error)
            batch = {name: programs.on_device(fields, examples.batch_size)}
            if batch not in found:
                found.append(batch)
    known = {name for split in data.splits.values() for name in split}
    if any(type(e).refine is not Evaluator.refine for e in method.evaluators.values()):
        found += [dict(batch) for batch in method.predict_spec if not known & batch.keys()]
    return found


def _followed(method: Method, stream: str, sequences: Sequences, known: list) -> list[dict[str, Any]]:
    """The batches that following these sequences gives to `predict`, one for each shape."""
    batches = []
    for follower in method.evaluators.values():
        if isinstance(follower, Follower) and stream in follower.streams:
            for shape in following.shapes(sequences):
                fields = {name: (s.shape, s.dtype) for name, s in follower.fields(stream, shape).items()}
                batch = {stream: programs.on_device(fields, sequences.batch_size)}
                if batch not in [*known, *batches]:
                    batches.append(batch)
    return batches
