"""The named mesh and where every array lives on it.

Axes: `data` (batch), `fsdp` (batch and parameters), `tensor` (inside a layer, by a method's rules). One device
is the mesh of ones, the same code path. Batches are split over `data` and `fsdp`; a parameter (and its moments,
whose path ends alike) takes the first partition rule that matches, then its largest free dimension that the
`fsdp` axis divides.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.core.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
FSDP_MIN_SIZE = 2**14  # smaller parameters are replicated: gathering them costs more than they weigh

Rules = Sequence[tuple[str, P]]


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh`; one axis may be -1, 'all devices that are left'. Where the devices have places in a
    torus (TPU slices), neighbours on an axis are neighbours there, so a batch's rows are not in process order: see
    `rows_of_process`."""
    devices = list(jax.devices() if devices is None else devices)
    shape = [int(sizes[a]) for a in AXES]
    free = [i for i, n in enumerate(shape) if n == -1]
    fixed = int(np.prod([n for n in shape if n != -1]))
    if len(free) > 1 or any(n == 0 or n < -1 for n in shape):
        raise InputError(f"config.mesh: {dict(zip(AXES, shape))} needs positive sizes and at most one -1")
    if free:
        if len(devices) % fixed:
            raise InputError(f"config.mesh: {fixed} does not divide the {len(devices)} devices of this run")
        shape[free[0]] = len(devices) // fixed
    total = int(np.prod(shape))
    if total > len(devices):
        raise InputError(f"config.mesh: {dict(zip(AXES, shape))} needs {total} devices, this run has {len(devices)}")
    if idle := sorted({d.process_index for d in devices} - {d.process_index for d in devices[:total]}):
        raise InputError(
            f"config.mesh: {dict(zip(AXES, shape))} takes {total} of {len(devices)} devices and leaves process "
            f"{idle[0]} without one; set config.mesh.data=-1, or start fewer processes"
        )
    if not _is_block(devices[:total]):
        raise InputError(
            f"config.mesh: {dict(zip(AXES, shape))} takes {total} of {len(devices)} devices, which are no whole block "
            "of their torus; set one axis to -1, all devices that are left"
        )
    try:
        # Auto axes: with Explicit ones, Linen modules over sharded parameters do not trace
        return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:total])
    except NotImplementedError:  # of a torus whose sides the axes are no products of
        sides = np.max([getattr(d, "coords", (0,)) for d in devices[:total]], axis=0) + 1
        raise InputError(
            f"config.mesh: {dict(zip(AXES, shape))} cannot be cut from a topology of {'x'.join(map(str, sides))}; each "
            "axis must be a product of some of these sides"
        ) from None


def _is_block(devices: Sequence[jax.Device]) -> bool:
    """Whether these devices fill a block of their torus; JAX makes a mesh of nothing else."""
    if not hasattr(devices[0], "coords"):
        return True
    cores = 1 + max(getattr(d, "core_on_chip", 0) for d in devices)
    return len(devices) == np.prod(np.ptp([d.coords for d in devices], axis=0) + 1) * cores


def path_name(path: Any) -> str:
    """A tree path as `a/b/0/kernel`, the form that all rules and regexes see."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def on_every_device(tree: Any) -> Any:
    """Inside the compiled step: the arrays gathered whole on every device, for what every device shall compute alike
    (an iteration over all pairs of a batch, which would otherwise communicate in every turn). Else, as they are."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P()), tree)


def batch_devices() -> int:
    """Inside the compiled step: over how many devices a batch is spread. Else 1."""
    return int(np.prod([jax.sharding.get_abstract_mesh().shape.get(axis, 1) for axis in BATCH_AXES]))


def over_batch(tree: Any) -> Any:
    """Inside the compiled step: the arrays with their first axis spread over the batch axes. Else, as they are."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P(BATCH_AXES)), tree)


def spread_rows(function: Callable[[Any], Any], rows: Any) -> Any:
    """`function(rows)` for what belongs to no example (a vocabulary that every step encodes): inside the compiled step
    the rows are spread over the batch axes, so that no two devices do the same work, and the result is gathered whole
    on every device. The number of rows need not divide the mesh. Else, just `function(rows)`."""
    return on_every_device(over_batch(function(over_batch(rows))))


def leaf_spec(path: str, shape: Sequence[int], mesh: Mesh, rules: Rules = ()) -> P:
    """Where one array of the state lives: first the method's rule, then FSDP on the largest divisible dimension."""
    rule = next((spec for pattern, spec in rules if re.search(pattern, path)), P())
    dims = [*rule] + [None] * (len(shape) - len(rule))
    if len(dims) > len(shape):
        return P()  # scalars and reduced moments whose path matches the rule of a larger array
    for i, axis in enumerate(dims):
        size = int(np.prod([mesh.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,)) if a]))
        if shape[i] % size:
            dims[i] = None  # not divisible: replicate this dimension rather than fail
    n = mesh.shape["fsdp"]
    if n > 1 and int(np.prod(shape)) >= FSDP_MIN_SIZE and "fsdp" not in jax.tree.leaves(dims):
        for i in sorted(range(len(shape)), key=lambda i: -shape[i]):
            if dims[i] is None and shape[i] % n == 0:
                dims[i] = "fsdp"
                break
    return P(*dims)


def state_shardings(abstract: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """A tree of NamedShardings like `abstract` (arrays or ShapeDtypeStructs)."""
    return jax.tree_util.tree_map_with_path(
        lambda p, x: NamedSharding(mesh, leaf_spec(path_name(p), x.shape, mesh, rules)), abstract
    )


def check_batch_size(global_size: int, mesh: Mesh, field: str) -> None:
    """Raises InputError where the mesh does not divide the batch."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if global_size % shards:
        near = max(shards, round(global_size / shards) * shards)
        raise InputError(
            f"{field}: {global_size} is not divisible by the {shards} batch shards of the mesh; try {near}"
        )


@functools.lru_cache(maxsize=64)
def rows_of_process(
    mesh: Mesh, global_size: int, process: int, owner: Callable[[Any], int] | None = None
) -> np.ndarray:
    """int `[n]`, ascending: the rows of a global batch that lie on devices of `process`, which therefore feeds them.

    The one place that says who has which rows, for feeding and for gathering. They need not be consecutive, and where
    `tensor` reaches over processes several have the same. owner: of a device; default its `process_index`.
    """
    owner = owner or (lambda device: device.process_index)
    rows: set[int] = set()
    for device, (part,) in batch_sharding(mesh).devices_indices_map((global_size,)).items():
        if owner(device) == process:
            rows.update(range(*part.indices(global_size)))
    found = np.array(sorted(rows), np.int64)
    found.flags.writeable = False  # the same array is given to everybody
    return found


def put_batch(batch: Any, mesh: Mesh, size: int | None = None) -> Any:
    """Host arrays to global device arrays. `size` None: every process has the whole batch, alike; else the arrays are
    the `rows_of_process` of a global batch of `size` rows, in their order."""
    sharding = batch_sharding(mesh)

    def put(x: np.ndarray) -> jax.Array:
        total = len(x) if size is None else size
        rows = np.arange(total) if len(x) == total else rows_of_process(mesh, total, jax.process_index())
        if len(rows) != len(x):
            raise ValueError(f"{len(x)} rows of a batch of {total}, of which this process has {len(rows)}")

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            first, end, _ = index[0].indices(total)
            begin = int(np.searchsorted(rows, first))
            return x[begin : begin + end - first]  # a device's rows are consecutive, and all of them are here

        return jax.make_array_from_callback((total, *x.shape[1:]), sharding, piece)

    return jax.tree.map(put, batch)


def lay_in(x: Any, where: NamedSharding, alone: bool) -> jax.Array:
    """An array of the host, or of other devices, at its place in a state. Of one on the host, which every process has,
    each device gets its own part, and no more is read of it. alone: nothing else uses it, so it need not be copied."""
    if isinstance(x, jax.Array):
        return jax.device_put(x, where, may_alias=None if alone else False)
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


def whole(batch: Any) -> bool:
    """Whether a batch is of host arrays, which `put_batch` still has to place."""
    return any(isinstance(x, np.ndarray) for x in jax.tree.leaves(batch))


def to_host(tree: Any) -> Any:
    """Device arrays to numpy, whole, on every process; all of them must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    def get(x: Any) -> Any:
        here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return jax.device_get(x) if here else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(get, tree)
