"""`jaxvl` as one of several processes, run as a file so that any version of the package can be on the path.

MESH_ORDER: a permutation of the devices, as `jax.make_mesh` lays them out on a TPU slice. PLANT: `bad` (after two
batches an InputError in process 1 alone), `slow` (batches take PACE, 0.3 s). PROCESS: the
number of this one.
"""

import os
import sys
import time

import jax


def permute(order: list[int]) -> None:
    """Meshes over all devices get them in this order."""
    import numpy as np
    from jax.sharding import Mesh

    def make_mesh(shape, names, *, axis_types, devices):
        taken = [devices[i] for i in order] if len(devices) == len(order) else devices
        return Mesh(np.array(taken).reshape(shape), names, axis_types=axis_types)

    jax.make_mesh = make_mesh


def plant(fault: str, process: int) -> None:
    """Rows of training batches are made slowly, or not at all any more."""
    from jaxvl.core.errors import InputError
    from jaxvl.data import pipeline

    collate, seen = pipeline._collate_train, []

    def planted(rows):
        seen.append(len(rows))
        time.sleep(float(os.environ.get("PACE", "0.3")))
        if fault == "bad" and process == 1 and len(seen) > 2:
            raise InputError("example video7: planted: this host alone cannot read its file")
        return collate(rows)

    pipeline._collate_train = planted


def main() -> int:
    if order := os.environ.get("MESH_ORDER"):
        permute([int(i) for i in order.split(",")])
    if fault := os.environ.get("PLANT"):
        plant(fault, int(os.environ["PROCESS"]))
    from jaxvl import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
