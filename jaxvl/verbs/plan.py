"""`jaxvl train --dry-run`: what a run would be, without reading data, compiling or writing anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.core import state as states
from jaxvl.verbs.catalog import needs


def lines(config: ConfigDict) -> Iterator[str]:
    """The resolved config, the size of the model, its batches, how they lie on this machine, and what is missing.

    Raises InputError for a config that cannot be built here.
    """
    yield "config"
    for name, value in configs.dotted(config):
        yield f"  {name} = {json.dumps(value, default=str)}"
    traced = configs.with_length(config, configs.NOMINAL_EPOCH)
    method = session.build_method(traced)
    mesh = sharding.make_mesh(config.mesh)
    abstract = states.abstract_state(method, traced)
    cells = states.build_cells(method, abstract.params, traced)
    yield "model"
    yield f"  parameters: {count(abstract.params):,}"
    for name, objective in method.objectives.items():
        trained = {path: x for path, x in states.flatten(abstract.params).items() if objective.trains_path(path)}
        yield f"  objective {name}: trains {count(trained):,}, reads {', '.join(objective.streams)}"
    for name, tree in abstract.mutables.items():
        yield f"  {name}: {count(tree):,} values that are no parameters"
    yield f"  optimiser states: {', '.join(cells.members)}"
    yield "batches"
    for stream, fields in method.batch_spec.items():
        for field, spec in fields.items():
            yield f"  {stream}.{field}: {spec.dtype} {list(spec.shape)}"
            sharding.check_batch_size(spec.shape[0], mesh, f"batch size of stream {stream!r} ({field})")
    shape = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    yield f"devices: {mesh.devices.size} of kind {mesh.devices.flat[0].device_kind}, mesh {shape}"
    yield f"length: {configs.length_line(config)}"
    missing = needs(config)
    yield f"missing: {'nothing' if not missing else ''}".rstrip()
    yield from (f"  --config.{line}" for line in missing)


def count(tree) -> int:
    """Number of values in a tree of arrays or their shapes."""
    return sum(int(x.size) for x in jax.tree.leaves(tree))
