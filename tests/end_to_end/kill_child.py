"""A toy training run in a process of its own, for tests that kill it. argv: workdir, steps, seconds of each step."""

import sys
import time

from jaxvl.verbs import train
from tests import toys

PAUSE = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0


def slow(row, rng):
    time.sleep(PAUSE / toys.BATCH)
    return toys.make_row(row, rng)


def main() -> int:
    config = toys.toy_config(steps=int(sys.argv[2]), checkpoint_every=2, log_every=1)
    result = train.train(config, sys.argv[1], method=toys.contrastive(), data=toys.toy_data(make=slow))
    return 130 if result.stopped == "SIGINT" else 0


if __name__ == "__main__":
    sys.exit(main())
