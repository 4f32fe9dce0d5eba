"""The Python API: `jaxvl.config`, `jaxvl.train`, `jaxvl.evaluate`, `jaxvl.load`. The command line is built on it.

Wrong input raises `jaxvl.InputError`, an undecodable file `jaxvl.BadMedia`; both are one line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import registry, session, storage
from jaxvl.core.errors import InputError
from jaxvl.core.files import printable
from jaxvl.core.model import Model
from jaxvl.interop import weights
from jaxvl.verbs import evaluate as evaluation
from jaxvl.verbs import train as training
from jaxvl.verbs.train import Result


def say_on_stderr(line: str) -> None:
    """Where the API says what it does, unless a call is given another `say`."""
    print(printable(line), file=sys.stderr, flush=True)


def config(name: str | Path, **overrides: Any) -> ConfigDict:
    """The config `METHOD/FILE[:ROW]` (see `jaxvl configs`), or of a Python file, with fields replaced.

    overrides: by path, `**{"train.steps": 100}`, `train__steps=100`, or nested, `train={"steps": 100}`. Values keep
    the type of the field. Raises InputError for an unknown name, field or a value of another type.
    """
    cfg = configs.load(name)
    configs.check(configs.apply_values(cfg, dict(_paths(overrides))))
    return cfg


def train(
    config: ConfigDict | str | Path,
    workdir: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    say: session.Say | None = None,
) -> Result:
    """Trains in `workdir`, going on from its newest checkpoint, evaluates and writes the report.

    config: of `jaxvl.config`, or its name. resume: go on in a workdir of another config. fresh: set aside what is
    there.
    """
    return training.train(_config(config), workdir, resume=resume, fresh=fresh, say=say)


def evaluate(
    workdir: str | Path,
    split: str | None = None,
    *,
    checkpoint: int | None = None,
    best: bool = False,
    say: session.Say = say_on_stderr,
) -> dict[str, float]:
    """Metrics of a trained workdir on `split` (default `config.eval.split`): of its newest checkpoint, of the best by
    `config.checkpoint.best_metric`, or of step `checkpoint`."""
    return evaluation.evaluate(workdir, split, checkpoint, best, say)


def load(
    path: str | Path, *, checkpoint: int | None = None, best: bool = False, say: session.Say = say_on_stderr
) -> Model:
    """The trained model of a workdir, or the CLIP of a folder that `jaxvl convert` wrote, with the verbs of its task.

    `print(model)` lists them with what they take. Raises InputError where there is no model, or no verbs for it.
    """
    place = storage.at(path)
    with storage.named(place):
        model = _load(place, checkpoint, best, place.saying(say))
    model.source = place.shown(model.source)
    return model


def _load(place: storage.Disk, checkpoint: int | None, best: bool, say: session.Say) -> Model:
    path = place.folder
    if (path / weights.INFO).is_file() and not (path / "config.json").is_file():
        if checkpoint is not None or best:
            raise InputError(f"{path}: is a weights folder, which has no checkpoints; leave out checkpoint and best")
        from jaxvl.models.clip import CLIPModel

        return CLIPModel.of_folder(path, say=say)
    if path.is_file():
        raise InputError(f"{path}: is a file; convert it first: jaxvl convert {path} --from LAYOUT --to FOLDER")
    method = session.read_config(place).method
    files = registry.optional(method, "files")
    if not hasattr(files, "Model"):
        raise InputError(f"{path}: method {method} has no verbs for Python (files.Model)")
    return files.Model(session.load(place, checkpoint, best, say), say)


def _config(given: ConfigDict | str | Path) -> ConfigDict:
    return given if isinstance(given, ConfigDict) else configs.load(given)


def _paths(overrides: Mapping[str, Any], prefix: str = ""):
    for key, value in overrides.items():
        name = prefix + key.replace("__", ".")
        if isinstance(value, Mapping):
            yield from _paths(value, f"{name}.")
        else:
            yield name, value
