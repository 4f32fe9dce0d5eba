"""What the verbs share: the workdir of a run, the compiled pieces of a method, a trained model read back."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import registry, sharding
from jaxvl.core import state as states
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.evaluation import jit_predict
from jaxvl.core.method import Data, Method
from jaxvl.core.step import build_update, jit_update
from jaxvl.core.versions import versions

Say = Callable[[str], None]

RUN_FILES = (
    *("config.json", "env.json", "metrics.jsonl", "checkpoints", "integrity", "damaged", "tensorboard"),
    *("report.html", "pictures", "eval", "bad_inputs.jsonl", "vocabulary.json", "classes.json", "ids"),
    *("index", "search.png"),
)
"""What a run leaves in its workdir; `data/`, which may be a rendered world, is not among it."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A method on a mesh: its state's shapes and shardings, the jitted update of each objective, jitted predict."""

    method: Method
    config: ConfigDict
    mesh: sharding.Mesh
    cells: states.Cells
    target: states.TrainState
    shardings: states.TrainState
    updates: Mapping[str, Callable]
    predict: Callable

    def fresh_state(self) -> states.TrainState:
        """Initialises the state where it lives; no device ever holds it whole."""
        make = lambda: states.create(self.method, self.config, states.dummy_batch(self.method), self.cells)  # noqa: E731
        return jax.jit(make, out_shardings=self.shardings, compiler_options=compiled_quickly())()


def compiled_quickly() -> dict[str, int]:
    """Options of `jax.jit` for a program that runs once: on CPUs LLVM's level 1, which gives the same bits."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def build_method(config: ConfigDict) -> Method:
    """The method that `config.method` names."""
    if not config.method:
        raise InputError("config.method: is empty; name a method (see `jaxvl methods`)")
    return registry.module(config.method, "method").build(config)


def compile_method(config: ConfigDict, method: Method | None = None, devices: Any = None) -> Compiled:
    """Builds (lazily compiled) everything that runs on devices. Raises where batch and mesh do not fit."""
    method = method or build_method(config)
    mesh = sharding.make_mesh(config.mesh, devices)
    for stream, fields in method.batch_spec.items():
        for field, spec in fields.items():
            sharding.local_batch_size(spec.shape[0], mesh, f"batch size of stream {stream!r} ({field})")
    abstract = states.abstract_state(method, config)
    cells = states.build_cells(method, abstract.params, config)
    where = sharding.state_shardings(abstract, mesh, method.partition_rules)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)
    updates = {n: jit_update(build_update(method, n, config, cells), mesh, where) for n in method.objectives}
    return Compiled(method, config, mesh, cells, target, where, updates, jit_predict(method, mesh, config.precision))


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained model read back from its workdir. `step`: the checkpoint it came from."""

    config: ConfigDict
    workdir: Path
    method: Method
    mesh: sharding.Mesh
    variables: Mapping[str, Any]
    predict: Callable
    step: int


def load(workdir: str | Path, checkpoint: int | None = None, best: bool = False, say: Say = print) -> Loaded:
    """The model of a workdir: newest checkpoint, the best one, or a named step. Never random weights: raises
    InputError where there is no checkpoint."""
    config = read_config(workdir, say)
    compiled = compile_method(configs.with_length(config, configs.NOMINAL_EPOCH))  # predicting has no length
    checkpoints = Checkpoints(workdir, config, say, read_only=True)
    try:
        step = checkpoints.best_step() if best and checkpoint is None else checkpoint
        if best and step is None:
            raise InputError(
                f"--best: no checkpoint of {workdir} was saved with a metric; train with config.checkpoint.best_metric "
                "and config.train.eval_every set, or leave out --best"
            )
        use_ema = bool(config.eval.use_ema and config.train.ema)
        item = "ema" if use_ema else "params"
        trees = {item: getattr(compiled.target, item), "mutables": compiled.target.mutables}
        got = checkpoints.restore_variables({k: v for k, v in trees.items() if jax.tree.leaves(v)}, step)
    finally:
        checkpoints.close()
    if got is None:
        raise InputError(
            f"{Path(workdir) / 'checkpoints'}: holds no checkpoint; train first: jaxvl train --workdir {workdir}"
        )
    items, meta = got
    variables = {"params": items[item], **items.get("mutables", {})}
    return Loaded(config, Path(workdir), compiled.method, compiled.mesh, variables, compiled.predict, int(meta["step"]))


def read_config(workdir: str | Path, say: Say | None = None) -> ConfigDict:
    """The resolved config of a workdir. Fields that it lacks, since an older version wrote it, have their defaults, and
    `say` tells which."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise InputError(f"--workdir {workdir}: has no config.json, so no run was made there; give a run's folder")
    try:
        config = configs.from_json(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not valid JSON ({error.msg}, line {error.lineno}); restore it or train afresh"
        ) from None
    name = config.get("method", "")
    base = registry.module(name, "recipe").base() if registry.has_part(name, "recipe") else configs.base()
    for entry in set(base.optim) - set(config.get("optim", {})):  # an optimiser that this run has not
        del base.optim[entry]
    added = configs.complete(config, base)
    if added and say is not None:
        say(f"{path}: of an older version; " + ", ".join(f"config.{k} is taken as {v!r}" for k, v in added.items()))
    return config


def build_data(config: ConfigDict, workdir: str | Path, say: Say) -> Data:
    """The method's data, read and checked. Process 0 goes first, since it may write (a world, a vocabulary)."""
    build = registry.module(config.method, "data").build_data
    if jax.process_count() == 1:
        return build(config, Path(workdir), say)
    from jax.experimental import multihost_utils

    data = build(config, Path(workdir), say) if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("data was built by process 0")
    return data or build(config, Path(workdir), say)


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


def check_constants(mutables: Mapping[str, Any], data: Data, source: str | Path) -> None:
    """Raises InputError where a trained model was made with other `data.constants` than the data has now."""
    flat = states.flatten({name: tree for name, tree in mutables.items() if name != "params"})
    for path, value in data.constants.items():
        if path not in flat or not np.array_equal(sharding.to_host(flat[path]), value):
            raise InputError(
                f"{source}: was trained with other {path} than the data has now (another vocabulary or tokenizer?); "
                "evaluate with the files that it was trained with"
            )


def claim_workdir(workdir: str | Path, config: ConfigDict, resume: bool, fresh: bool, say: Say) -> None:
    """Makes the workdir this run's own: writes config.json and env.json, or refuses one of another config.

    `fresh` moves what is there to `WORKDIR/previous/N`; `resume` goes on with the new config.
    """
    if "://" in str(workdir):
        raise InputError(f"--workdir {workdir}: needs a folder; mount the bucket (gcsfuse) and name the mount")
    path = Path(workdir)
    file = path / "config.json"
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir {workdir}: is a file; name a folder")
    if fresh and file.exists():
        if jax.process_index() == 0:
            place = path / "previous" / str(len(list((path / "previous").glob("*"))))
            place.mkdir(parents=True)
            for name in RUN_FILES:
                if (path / name).exists():
                    (path / name).rename(place / name)
            say(f"--fresh: the run that was in {workdir} is now in {place}")
    elif file.exists() and not resume:
        rows = configs.differences(read_config(workdir), config)
        if rows:
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            raise InputError(
                f"--workdir {workdir}: holds a run of another config ({'; '.join(rows[:3])}{more}); "
                "choose another folder, or --resume to go on with the new values, or --fresh to start over"
            )
    if jax.process_count() > 1:  # nobody writes before everybody has compared, nobody goes on before it is written
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("compared the workdir")
    if jax.process_index() == 0:
        path.mkdir(parents=True, exist_ok=True)
        write_text(file, configs.to_json(config))
        write_text(path / "env.json", json.dumps(environment(), indent=1) + "\n")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("claimed the workdir")


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one go: a reader sees the old text or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


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
