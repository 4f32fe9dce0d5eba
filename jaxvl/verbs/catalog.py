"""`jaxvl methods` and `jaxvl configs`: what is here, which rows each config file has, and what each needs."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxvl.core import config_files, registry
from jaxvl.core.errors import InputError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

WIDTH = 110


@dataclasses.dataclass(frozen=True)
class Entry:
    """A config file.

    name: what `--config` takes, `METHOD/FILE`. about: the first line of its text. rows: what may stand behind it, as in
    `METHOD/FILE:ROW`. needs: what the user has to give, a line each.
    """

    name: str
    about: str
    rows: tuple[str, ...]
    needs: tuple[str, ...]


def entries(method: str = "") -> list[Entry]:
    """All config files, or those of one method; raises InputError for an unknown one."""
    if method:
        registry.info(method)
    return [_entry(file) for file in config_files.files(method)]


def _entry(file: Path) -> Entry:
    from jaxvl.core import config as configs

    module = configs.module_of(file)
    config = configs.load(file)
    about = (module.__doc__ or "").strip().splitlines() or [""]
    rows = tuple(getattr(module, "EXPERIMENTS", None) or ())
    return Entry(f"{file.parent.name}/{file.stem}", about[0], rows, tuple(needs(config)))


def needs(config: ConfigDict) -> list[str]:
    """What a run of this config lacks, each as `field: what to give`; empty where it can start as it is."""
    lacking = []
    if config.init.required and not config.init.weights:
        lacking.append("init.weights: pretrained weights, a folder that `jaxvl convert` wrote")
    if registry.has_part(config.method, "data"):
        lacking += getattr(registry.module(config.method, "data"), "needs", lambda config: [])(config)
    return lacking


def lines_of_methods() -> Iterator[str]:
    """For the terminal: the card of each method."""
    for name in registry.names():
        card = registry.info(name)
        yield f"{name}  {card.title} ({card.status})"
        yield f"    paper    {card.paper}"
        yield f"    task     {card.task}"
        files = [file.stem for file in config_files.files(name)]
        yield f"    configs  {', '.join(files) or f'none in {config_files.folder()}'}"


def lines_of_configs(method: str = "") -> Iterator[str]:
    """For the terminal: each file with its rows and what it needs."""
    found = entries(method)
    if not found:
        raise InputError(f"configs: there are none in {config_files.folder()}{f' for {method}' if method else ''}")
    for entry in found:
        yield entry.name
        yield f"    {entry.about}"
        yield from _wrapped("needs", "; ".join(entry.needs) or "nothing")
        if entry.rows:
            yield from _wrapped("rows", " ".join(entry.rows))
    yield "train one:  jaxvl train --config NAME[:ROW] --workdir DIR    first look:  ... --dry-run"


def _wrapped(head: str, text: str) -> list[str]:
    first = f"    {head:<6} "
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False)
