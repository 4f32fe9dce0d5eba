"""`jaxvl train --folds`: a run for each fold of a protocol (leave one recording out), and one table of all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import fields, processes, programs, registry, session, storage
from jaxvl.core.errors import InputError
from jaxvl.core.files import cannot_write, printable, write_text
from jaxvl.verbs.evaluate import evaluate
from jaxvl.verbs.report import read_result
from jaxvl.verbs.train import train

SUMMARY = "folds.json"
Table = tuple[str, list[str], list[list[Any]], str]


@dataclasses.dataclass(frozen=True)
class Folds:
    """What all folds gave. metrics: of each, in order. pooled: of all together. stopped: name of the signal that ended
    it early, or None."""

    metrics: list[dict[str, float]]
    pooled: dict[str, float]
    stopped: str | None


def train_folds(
    config: ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    say: session.Say | None = None,
) -> Folds:
    """Trains every fold of `config` in `WORKDIR/fold-00` and so on, as `train` would, and writes `WORKDIR/folds.json`.

    The same command goes on where it was stopped. Raises InputError where the config has no folds, and what `train`
    raises.
    """
    workdir = storage.address(workdir) or Path(workdir).absolute()
    config = fields.resolved(config)
    fields.check(config)
    each = folds_of(config)
    tell = say or session_say()
    with storage.opened(workdir, tell) as place:
        if place.exists("config.json"):
            raise InputError(f"--workdir {place}: holds a run of its own; name another folder for the folds")
        try:
            place.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(place.folder, error) from None
        programs.keep_for_all(place.folder)  # folds differ in their data alone
        return _train_folds(config, workdir, place, each, resume, fresh, say, tell)


def _train_folds(
    config: ConfigDict,
    workdir: str | Path,
    place: storage.Disk,
    each: Sequence[Mapping[str, Any]],
    resume: bool,
    fresh: bool,
    say: session.Say | None,
    tell: session.Say,
) -> Folds:
    rows: list[dict[str, Any]] = []
    for number, changes in enumerate(each):
        name = f"fold-{number:0{max(2, len(str(len(each) - 1)))}d}"
        shown = ", ".join(f"{field}={value}" for field, value in changes.items())
        tell(f"{name} of {len(each)}: {shown}")
        own = configs.apply_values(config.copy_and_resolve_references(), changes)
        result = train(own, storage.under(workdir, name), resume=resume, fresh=fresh, say=say)
        if result.stopped:
            return Folds([row["metrics"] for row in rows], {}, result.stopped)
        metrics = result.metrics or _kept(storage.under(workdir, name), config.eval.split, result.step, tell)
        rows.append({"name": name, "fields": dict(changes), "step": result.step, "metrics": metrics})
    metrics = [row["metrics"] for row in rows]
    pooled = pool(config.method, metrics)
    if processes.index() == 0:
        write_text(place.folder / SUMMARY, json.dumps({"folds": rows, "pooled": pooled}, indent=1) + "\n")
    return Folds(metrics, pooled, None)


def _kept(workdir: str | Path, split: str, step: int, say: session.Say) -> dict[str, float]:
    """The metrics of a fold that was finished before; where a kill came before its evaluation, this is made up for."""
    with storage.opened(workdir, say) as place:
        path = place.folder / "eval" / f"{split}.json"
        if path.is_file() and (found := read_result(path))["step"] == step:
            return found["metrics"]
    return evaluate(workdir, split, say=say)


def folds_of(config: ConfigDict) -> Sequence[Mapping[str, Any]]:
    """The fields that the config takes in each of its folds. Raises InputError where it has none."""
    module = registry.module(config.method, "data")
    each = module.folds(config) if hasattr(module, "folds") else []
    if not each:
        raise InputError("--folds: this config has no folds; leave out --folds to train it once")
    return each


def pool(method: str, metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of all folds together, as the method's `files.pooled` counts; else the mean of each metric."""
    files = registry.optional(method, "files")
    if hasattr(files, "pooled"):
        return files.pooled(metrics)
    names = [name for name in metrics[0] if all(name in m for m in metrics)]
    return {name: sum(m[name] for m in metrics) / len(metrics) for name in names}


def table(found: Folds) -> Table:
    """A row a fold and one of all, for what they were pooled over."""
    names = list(found.pooled)
    rows = [[str(number), *(m.get(name) for name in names)] for number, m in enumerate(found.metrics)]
    rows.append(["all", *(found.pooled[name] for name in names)])
    return (f"{len(found.metrics)} folds", ["fold", *names], rows, "")


def session_say() -> session.Say:
    """Speaks in the first process."""
    return (lambda line: print(printable(line), flush=True)) if processes.index() == 0 else (lambda line: None)
