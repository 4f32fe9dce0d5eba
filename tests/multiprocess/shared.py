"""What the processes of a run and the test that compares them must agree on."""

from __future__ import annotations

import time

from tests import toys

DEVICES = 4


def config(steps: int):
    """The toy's config over four devices, however many processes hold them."""
    c = toys.toy_config(steps=steps, checkpoint_every=2)
    c.mesh.data = DEVICES
    return c


def slow_row(record, rng):
    """A row that takes its time, so that a signal finds the run under way."""
    time.sleep(0.2 / toys.BATCH)
    return toys.make_row(record, rng)
