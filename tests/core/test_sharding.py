"""Which process has which rows of a batch, on meshes like those of TPU slices: eight simulated devices and a table that
says whose they are."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxvl.core import evaluation, sharding
from jaxvl.core.errors import InputError

OWNERS = {
    "in process order": [0, 0, 0, 0, 1, 1, 1, 1],
    "v5p 2x2x2": [0, 1, 0, 1, 0, 1, 0, 1],
    "first half of v5e 4x4": [0, 0, 1, 1, 1, 1, 0, 2],
    "four hosts, uneven": [2, 0, 0, 3, 1, 1, 2, 3],
}


def mesh_of(shape=(8, 1, 1)):
    return Mesh(np.array(jax.devices()).reshape(shape), sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def owner_of(mesh, owners):
    """The process of each device by its place in the mesh."""
    table = {d: p for d, p in zip(mesh.devices.flat, owners, strict=True)}
    return table.__getitem__


@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (4, 2, 1)])
def test_every_row_has_one_owner_and_it_is_that_of_its_device(owners, shape):
    mesh = mesh_of(shape)
    owner = owner_of(mesh, owners)
    rows = [sharding.rows_of_process(mesh, 32, p, owner) for p in range(4)]
    assert sorted(np.concatenate(rows)) == list(range(32))
    placed = jax.device_put(np.arange(32), sharding.batch_sharding(mesh))  # what jax makes of the mesh
    for shard in placed.addressable_shards:
        assert set(np.asarray(shard.data)) <= set(rows[owner(shard.device)])


def test_rows_by_hand():
    mesh = mesh_of()
    assert sharding.rows_of_process(mesh, 16, 0, owner_of(mesh, OWNERS["v5p 2x2x2"])).tolist() == [
        *(0, 1, 4, 5, 8, 9, 12, 13)
    ]
    assert sharding.rows_of_process(mesh, 8, 1, owner_of(mesh, OWNERS["first half of v5e 4x4"])).tolist() == [
        2,
        3,
        4,
        5,
    ]
    assert sharding.rows_of_process(mesh, 8, 7, owner_of(mesh, OWNERS["v5p 2x2x2"])).tolist() == []


def test_a_shard_that_reaches_over_hosts_is_fed_by_both():
    mesh = mesh_of((2, 1, 4))
    owners = [0, 1, 0, 1, 2, 3, 2, 3]
    rows = [sharding.rows_of_process(mesh, 8, p, owner_of(mesh, owners)).tolist() for p in range(4)]
    assert rows == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
    whole = mesh_of((1, 1, 8))
    assert all(len(sharding.rows_of_process(whole, 8, p, owner_of(whole, owners))) == 8 for p in range(4))


@pytest.mark.parametrize("size", [None, 16])
def test_a_batch_is_placed_row_by_row(size):
    devices = np.array(jax.devices())[[0, 2, 1, 3, 7, 6, 5, 4]].reshape(4, 2, 1)
    mesh = Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    batch = {"x": np.arange(48, dtype=np.int32).reshape(16, 3), "mask": np.arange(16) % 3 == 0}
    placed = sharding.put_batch(batch, mesh, size)
    for name, x in batch.items():
        np.testing.assert_array_equal(np.asarray(placed[name]), x)
        assert placed[name].sharding == sharding.batch_sharding(mesh)
        for shard in placed[name].addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), x[shard.index])
    with pytest.raises(ValueError, match="15 rows of a batch of 16, of which this process has 16"):
        sharding.put_batch({"x": np.zeros(15)}, mesh, 16)


def test_host_fields_come_back_in_the_order_of_the_rows(monkeypatch):
    """Two batches of eight over two hosts that hold every other pair of rows, and share one row."""
    rows = {0: np.array([0, 1, 4, 5, 6]), 1: np.array([2, 3, 6, 7])}
    whole = [{"_id": [f"{b}{r}" for r in range(8)], "_valid": np.arange(8) != 3 * b} for b in range(2)]
    parts = [[{"_id": [b["_id"][r] for r in rows[p]], "_valid": b["_valid"][rows[p]]} for b in whole] for p in range(2)]
    monkeypatch.setattr(evaluation, "rows_of_process", lambda mesh, size, p: rows[p])
    monkeypatch.setattr(evaluation.processes, "count", lambda: 2)
    monkeypatch.setattr(evaluation.processes, "gather", lambda mine: parts)
    got = evaluation._all_rows(parts[1], None, 8)
    assert [b["_id"] for b in got] == [b["_id"] for b in whole]
    for a, b in zip(got, whole):
        np.testing.assert_array_equal(a["_valid"], b["_valid"])


def test_meshes_that_cannot_be_are_one_line(monkeypatch):
    chips = [SimpleNamespace(process_index=i // 4, coords=(i % 4, i // 4 % 4, i // 16)) for i in range(64)]
    with pytest.raises(InputError, match=r"takes 4 of 64 devices and leaves process 1 without one"):
        sharding.make_mesh({"data": 4, "fsdp": 1, "tensor": 1}, chips)
    square = [SimpleNamespace(process_index=0, coords=(i % 2, i // 2, 0)) for i in range(4)]
    with pytest.raises(InputError, match=r"'data': 3, .* takes 3 of 4 devices, which are no whole block"):
        sharding.make_mesh({"data": 3, "fsdp": 1, "tensor": 1}, square)

    def refuses(*args, **kwargs):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2 of size 8")

    monkeypatch.setattr(jax, "make_mesh", refuses)
    with pytest.raises(InputError, match=r"'data': 8, .*'tensor': 8\} cannot be cut from a topology of 4x4x4"):
        sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 8}, chips)
    with pytest.raises(InputError, match=r"batch: 12 is not divisible by the 8 batch shards .* try 16"):
        sharding.check_batch_size(12, mesh_of((4, 2, 1)), "batch")
