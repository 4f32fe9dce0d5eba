"""What the verbs share: the workdir of a run, the compiled pieces of a method, a trained model read back."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import fields as declared
from jaxvl.core import processes, programs, registry, sharding, storage
from jaxvl.core import state as states
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.evaluation import jit_predict
from jaxvl.core.files import read_json, write_text
from jaxvl.core.method import Data, Fields, Method
from jaxvl.core.programs import Program, compile_all
from jaxvl.core.step import build_update, jit_update
from jaxvl.core.versions import versions

Say = Callable[[str], None]

RUN_FILES = (
    *("config.json", "env.json", "metrics.jsonl", "checkpoints", "integrity", "damaged", "tensorboard"),
    *("report.html", "pictures", "eval", "bad_inputs.jsonl", "left_out.txt", "vocabulary.json", "classes.json", "ids"),
    *("index", "search.png"),
)
"""What a run leaves in its workdir. `data/`, which may be a rendered world, and `cache/` (`jaxvl.core.programs`) are
not among it, as the next run has a use for them."""


SHARED_SECONDS = 10  # a file system of many hosts may show a new file late


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A method on a mesh: its state's shapes and shardings, the jitted update of each objective, jitted predict."""

    method: Method
    config: ConfigDict
    mesh: sharding.Mesh
    cells: states.Cells
    target: states.TrainState
    shardings: states.TrainState
    updates: Mapping[str, Program]
    predict: Program

    def fresh_state(self) -> states.TrainState:
        """Initialises the state where it lives; no device ever holds it whole."""
        make = lambda: states.create(self.method, self.config, states.dummy_batch(self.method), self.cells)  # noqa: E731
        return jax.jit(make, out_shardings=self.shardings, compiler_options=compiled_quickly())()

    def state_with(self, variables: Mapping[str, Any]) -> states.TrainState:
        """A state that begins with `variables` (`params` and the other collections), laid in shard by shard.

        A leaf is an array, or a ShapeDtypeStruct of `self.target` for what is initialised as in `fresh_state`, possibly
        at another path than its own. Nothing else is initialised, so no device holds a parameter twice.
        """
        own = states.flatten({"params": self.target.params, **self.target.mutables})
        where = states.flatten({"params": self.shardings.params, **self.shardings.mutables})
        given, origin = states.flatten(dict(variables)), {id(leaf): path for path, leaf in own.items()}
        fresh = {path: origin[id(x)] for path, x in given.items() if isinstance(x, jax.ShapeDtypeStruct)}
        uses = collections.Counter(id(x) for x in given.values())
        laid = {p: sharding.lay_in(x, where[p], uses[id(x)] == 1) for p, x in given.items() if p not in fresh}

        def make() -> tuple[states.TrainState, dict[str, jax.Array]]:
            state = states.create(self.method, self.config, states.dummy_batch(self.method), self.cells)
            made = states.flatten({"params": state.params, **state.mutables})
            return state.replace(params={}, mutables={}, ema={}), {p: made[source] for p, source in fresh.items()}

        rest = self.shardings.replace(params={}, mutables={}, ema={})
        run = jax.jit(make, out_shardings=(rest, {p: where[p] for p in fresh}), compiler_options=compiled_quickly())
        state, made = run()
        mutables = dict(states.merge(laid | made))
        params = mutables.pop("params")
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=self.shardings.ema)
        return state.replace(params=params, mutables=mutables, ema=copy(params) if self.config.train.ema else {})

    def compile_ahead(self, first: int, evaluated: Sequence[Mapping[str, Fields]], say: Say) -> None:
        """Compiles every objective that is picked from update `first` to the last, and `predict` for each batch
        `{stream: fields}` of `evaluated`: what does not fit the memory shows before the first step, not in the middle
        of a run."""
        steps, spec = range(first, self.config.train.steps), self.method.batch_spec
        names: dict[str, None] = {}
        for step in steps:
            names[self.method.objective_at(step)] = None
            if len(names) == len(self.method.objectives):
                break
        found = [
            (name, self.updates[name], self.target, {s: dict(spec[s]) for s in self.method.objectives[name].streams})
            for name in names
        ]
        if names or not self.config.train.steps:  # else the run is at its end
            variables = self.target.variables(self.config.eval.use_ema)
            found += [(f"predict of {', '.join(b)}", self.predict, variables, dict(b)) for b in evaluated]
        compile_all(found, say, self.config)


def compiled_quickly() -> dict[str, int]:
    """Options of `jax.jit` for a program that runs once: on CPUs LLVM's level 1, which gives the same bits. A level in
    XLA_FLAGS stays: an option would take its place."""
    option = "xla_backend_optimization_level"
    named = option in os.environ.get("XLA_FLAGS", "")
    return {option: 1} if jax.default_backend() == "cpu" and not named else {}


def build_method(config: ConfigDict) -> Method:
    """The method that `config.method` names."""
    if not config.method:
        raise InputError("config.method: is empty; name a method (see `jaxvl methods`)")
    return registry.module(config.method, "method").build(config)


def compile_method(config: ConfigDict, method: Method | None = None, devices: Any = None) -> Compiled:
    """Builds (lazily compiled) everything that runs on devices. Raises where batch and mesh do not fit."""
    programs.keep_none_over_cpus()
    method = method or build_method(config)
    mesh = sharding.make_mesh(config.mesh, devices)
    if mesh.shape["tensor"] > 1 and not method.partition_rules:
        raise InputError(
            f"config.mesh.tensor: {mesh.shape['tensor']}, but {method.name} has no partition rules, so these devices "
            "would all do the same work; set it to 1, and config.mesh.fsdp where memory is short"
        )
    for stream, fields in method.batch_spec.items():
        for field, spec in fields.items():
            sharding.check_batch_size(spec.shape[0], mesh, f"batch size of stream {stream!r} ({field})")
    abstract = states.abstract_state(method, config)
    cells = states.build_cells(method, abstract.params, config)
    where = sharding.state_shardings(abstract, mesh, method.partition_rules)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)
    updates = {n: Program(jit_update(build_update(method, n, config, cells), mesh, where)) for n in method.objectives}
    predict = jit_predict(method, mesh, config.precision)
    return Compiled(method, config, mesh, cells, target, where, updates, Program(predict))


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained model read back from its workdir. `step`: the checkpoint it came from. `workdir`: where its files are
    on this machine."""

    config: ConfigDict
    workdir: Path
    method: Method
    mesh: sharding.Mesh
    variables: Mapping[str, Any]
    predict: Callable
    step: int


def on_one_device(model: Loaded) -> Loaded:
    """The same model with its arrays on one device of this process, which may then use it without the others, as
    pictures do. All processes must call it; with one process it is the model as it is."""
    if jax.process_count() == 1:
        return model
    variables = sharding.to_host(dict(model.variables))
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.local_devices()[:1])
    placed = jax.device_put(variables, sharding.replicated(mesh))
    predict = jit_predict(model.method, mesh, model.config.precision)
    return dataclasses.replace(model, mesh=mesh, variables=placed, predict=predict)


def load(
    workdir: str | Path | storage.Disk,
    checkpoint: int | None = None,
    best: bool = False,
    say: Say = print,
    overrides: Sequence[str] = (),
    mesh: ConfigDict | None = None,
) -> Loaded:
    """The model of a workdir: newest checkpoint, the best one, or a named step; `overrides` as in `read_config`. Never
    random weights: raises InputError where there is no checkpoint. A mesh that this machine has not the devices for
    gives way to all of its devices, with a line. mesh: another than that of its config."""
    place = storage.at(workdir)
    say = place.saying(say)
    config = read_config(place, say, overrides)
    if mesh is not None:
        config.mesh.update(mesh)
    config = fitted(config, say)
    compiled = compile_method(configs.with_length(config, configs.NOMINAL_EPOCH))  # predicting has no length
    checkpoints = Checkpoints(place, config, say, read_only=True)
    try:
        step = checkpoints.best_step() if best and checkpoint is None else checkpoint
        if best and step is None:
            raise InputError(
                f"--best: no checkpoint of {place} was saved with a metric; train with config.checkpoint.best_metric "
                "and config.train.eval_every set, or leave out --best"
            )
        use_ema = bool(config.eval.use_ema and config.train.ema)
        item = "ema" if use_ema else "params"
        trees = {item: getattr(compiled.target, item), "mutables": compiled.target.mutables}
        got = checkpoints.restore_variables({k: v for k, v in trees.items() if jax.tree.leaves(v)}, step)
    finally:
        checkpoints.close()
    if got is None:
        raise InputError(f"{place}/checkpoints: holds no checkpoint; train first: jaxvl train --workdir {place}")
    items, meta = got
    kept = place.folder / "config.json"
    if meta.get("config") not in (None, configs.text_digest(kept.read_bytes())):
        say(
            f"{kept}: is not as it was when checkpoint {meta['step']} was saved (trained on with --resume, changed by "
            "hand, or damaged); it is read as it is now"
        )
    variables = {"params": items[item], **items.get("mutables", {})}
    return Loaded(config, place.folder, compiled.method, compiled.mesh, variables, compiled.predict, int(meta["step"]))


def fitted(config: ConfigDict, say: Say) -> ConfigDict:
    """`config` with a mesh that can be made here: what a pod has trained is used on one device, too. Results do not
    hang on the mesh."""
    try:
        sharding.make_mesh(config.mesh)
    except InputError as error:
        config.mesh.update({"data": -1, "fsdp": 1, "tensor": 1})
        say(f"{error}; used on all {jax.device_count()} devices of this machine")
    return config


def read_config(
    workdir: str | Path | storage.Disk, say: Say | None = None, overrides: Sequence[str] = ()
) -> ConfigDict:
    """The resolved config of a workdir. Fields that it lacks, since an older version wrote it, have their defaults, and
    `say` tells which. overrides: `a.b=value`, of paths only: where the data lies now."""
    place = storage.at(workdir)
    storage.check_folder(place.folder)
    path = place.folder / "config.json"
    if not path.is_file():
        raise InputError(f"--workdir {place}: has no config.json, so no run was made there; give a run's folder")
    mend = "restore it or train afresh"
    try:
        tree = read_json(path, dict, mend)
        if lost := [group for group in ("method", "train", "optim", "model", "data") if group not in tree]:
            raise InputError(f"{path}: has no {lost[0]}; {mend}")
        config = configs.from_plain(tree)
        name = config.get("method", "")
        base = registry.module(name, "recipe").base() if registry.has_part(name, "recipe") else configs.base()
        for entry in set(base.optim) - set(config.get("optim", {})):  # an optimiser that this run has not
            del base.optim[entry]
        added = configs.complete(config, base)
        declared.check(config)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # a text where a group of fields belongs
        raise InputError(f"{path}: holds no config ({error}); {mend}") from error
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}; {mend}") from None
    if added and say is not None:
        say(f"{path}: of an older version; " + ", ".join(f"config.{k} is taken as {v!r}" for k, v in added.items()))
    if overrides:
        known = [key for key, _, _ in declared.paths(config)]
        for item in overrides:
            if item.partition("=")[0] not in known:
                raise InputError(
                    f"--config.{item}: a trained workdir keeps its config; only its paths may be set anew, where files "
                    f"were moved: {', '.join(known)}"
                )
        config = declared.resolved(configs.apply(config, overrides))
        declared.check(config)
    return config


def build_data(config: ConfigDict, workdir: str | Path | storage.Disk, say: Say) -> Data:
    """The method's data, read and checked. Process 0 goes first, since it may write (a world, a vocabulary)."""
    place = storage.at(workdir)
    build = registry.module(config.method, "data").build_data
    if jax.process_count() == 1:
        return build(config, place.folder, say)
    data = None
    if jax.process_index() == 0:
        data = build(config, place.folder, say)
        place.publish()
    processes.barrier()
    if data is None:
        place.fetch()
        data = build(config, place.folder, say)
    return data


def lay_constants(mutables: Mapping[str, Any], data: Data, shardings: Any) -> dict[str, Any]:
    """The collections with `data.constants` in the place of their initial values. Raises InputError where the model has
    no such array, or one of another shape."""
    flat, where = states.flatten(dict(mutables)), states.flatten(dict(shardings))
    for path, value in data.constants.items():
        if path not in flat:
            raise InputError(f"data: holds the constant {path}, for which this model has no place")
        if flat[path].shape != np.shape(value):
            raise InputError(
                f"data: the constant {path} has the shape {list(np.shape(value))}, the config's is "
                f"{list(flat[path].shape)}"
            )
        flat[path] = jax.device_put(np.asarray(value, flat[path].dtype), where[path])
    return states.merge(flat)


def check_constants(mutables: Mapping[str, Any], data: Data, source: str | Path | storage.Disk) -> None:
    """Raises InputError where a trained model was made with other `data.constants` than the data has now."""
    flat = states.flatten({name: tree for name, tree in mutables.items() if name != "params"})
    for path, value in data.constants.items():
        if path not in flat or not np.array_equal(sharding.to_host(flat[path]), value):
            raise InputError(
                f"{source}: was trained with other {path} than the data has now (another vocabulary or tokenizer?); "
                "evaluate with the files that it was trained with"
            )


def claim_workdir(workdir: str | Path | storage.Disk, config: ConfigDict, resume: bool, fresh: bool, say: Say) -> None:
    """Makes the workdir this run's own: writes config.json and env.json, or refuses one of another config.

    `fresh` moves what is there to `WORKDIR/previous/N`, and so is what a start left that failed while it read its data;
    `resume` goes on with the new config.
    """
    place = storage.at(workdir)
    file = place.folder / "config.json"
    aside = f"--fresh: the run that was in {place}" if fresh and file.exists() else ""
    if not fresh and not resume and file.exists():
        rows = configs.differences(declared.resolved(read_config(place)), config)
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        other = f"{'; '.join(rows[:3])}{more}"
        if rows and trained_anything(place):
            raise InputError(
                f"--workdir {place}: holds a run of another config ({other}); "
                "choose another folder, or --resume to go on with the new values, or --fresh to start over"
            )
        aside = f"the failed start with another config ({other}) that was in {place}" if rows else ""
    processes.barrier()  # nobody writes before everybody has compared, nobody goes on before it is written
    if jax.process_index() == 0:
        if aside:
            previous = f"previous/{len(place.children('previous'))}"
            own = [name for name in place.children("") if name.startswith("bad_inputs.")]
            for name in [*own, *reversed(RUN_FILES)]:  # the config last: where this is cut off, it can be given again
                place.move(name, f"{previous}/{name}")
            say(f"{aside} is now in {place}/{previous}")
        place.folder.mkdir(parents=True, exist_ok=True)
        write_text(file, configs.to_json(config))
        write_text(place.folder / "env.json", json.dumps(environment(), indent=1) + "\n")
        place.publish()
    check_shared(place)


def trained_anything(place: storage.Disk) -> bool:
    """Whether a run got past reading its data: there is a checkpoint, also a damaged one, or a row of metrics."""
    kept = any(place.children(name) for name in ("checkpoints", "damaged"))
    metrics = place.folder / "metrics.jsonl"
    return kept or (metrics.exists() and metrics.stat().st_size > 0)


def check_shared(place: storage.Disk) -> None:
    """Raises InputError where not all processes see what process 0 writes to the workdir: checkpoints of hosts that
    write each to its own disk are useless."""
    if processes.count() == 1:
        return
    token = processes.decide(lambda: f".seen-by-all-{os.getpid()}-{time.time_ns()}")
    if processes.index() == 0:
        place.write(token, b"")
    processes.barrier()
    end = time.monotonic() + SHARED_SECONDS
    while not (seen := place.exists(token)) and time.monotonic() < end:
        time.sleep(0.2)
    blind = [processes.name_of(p) for p, sees in enumerate(processes.gather(seen)) if not sees]
    if processes.index() == 0:
        place.remove(token)
    if blind:
        raise InputError(
            f"--workdir {place}: {blind[0]} does not see what {processes.name_of(0)} writes there; name a folder "
            "that all hosts share (a network file system, or gs://BUCKET/FOLDER)"
        )


def environment() -> dict[str, Any]:
    """Versions, devices, git commit and command: what a result came from."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [str(d) for d in jax.devices()],
        "processes": jax.process_count(),
        "packages": versions(),
        "git_commit": _git_commit(),
        "command": sys.argv,
    }


def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
