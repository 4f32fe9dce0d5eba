"""One of several processes that do together what the test says. argv: port, processes, process, a function of `shared`,
its arguments in JSON."""

import json
import logging
import os
import sys

port, count, process, what, arguments = sys.argv[1:]


def permute(order: list[int]) -> None:
    """Meshes get their devices in this order, as `jax.make_mesh` lays them out on a TPU slice."""
    import jax
    import numpy as np
    from jax.sharding import Mesh

    def make_mesh(shape, names, *, axis_types, devices):
        # the helper of a single process's own mesh has fewer devices, and no order
        taken = [devices[i] for i in order] if len(devices) == len(order) else devices
        return Mesh(np.array(taken).reshape(shape), names, axis_types=axis_types)

    jax.make_mesh = make_mesh


def main() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    from jaxvl.core import processes

    if int(count) > 1:
        processes.connect(f"127.0.0.1:{port}", int(count), int(process))
    if order := os.environ.get("MESH_ORDER"):
        permute(json.loads(order))
    from tests import threefry

    threefry.write_out()
    from tests.multiprocess import shared

    getattr(shared, what)(**json.loads(arguments))


if __name__ == "__main__":
    main()
