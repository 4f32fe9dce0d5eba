"""`jaxvl prepare`: reads a data set as training would, reports what is missing, writes ArrayRecord shards."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jaxvl.core import registry
from jaxvl.core.errors import InputError


def prepare(config: ConfigDict, out: str | Path | None, splits: Sequence[str] | None = None) -> None:
    """Checks every split of the config's data (all of `splits`) and, given `out`, writes it there.

    The folder can be named in `config.data.root` with `config.data.reader='records'` afterwards.
    """
    module = registry.module(config.method, "data")
    if out is not None and not hasattr(module, "write_records"):
        raise InputError(f"config.method: {config.method} has no record form; leave out --out to only check the data")
    with tempfile.TemporaryDirectory() as scratch:
        data = module.build_data(config, Path(scratch), print)
        for line in data.reports:
            print(line)
        if out is not None:
            module.write_records(config, data, Path(out), tuple(splits or ()), print)
