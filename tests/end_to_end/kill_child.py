"""A toy training run in a process of its own, for tests that kill it. argv: workdir, steps, seconds of each step, and
`turns` for two objectives in turns, saved at step 5: with a pause it waits there for its end."""

import itertools
import sys
import time

from jaxvl.verbs import train
from tests import threefry, toys

PAUSE = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0


TURNS, LAST = "turns" in sys.argv, 8
made = itertools.count()


def slow(row, rng):
    time.sleep(PAUSE / toys.BATCH)
    if TURNS and PAUSE and next(made) >= LAST * toys.BATCH:
        time.sleep(600)
    return toys.make_row(row, rng)


def main() -> int:
    threefry.write_out()
    config = toys.toy_config(steps=int(sys.argv[2]), checkpoint_every=5 if TURNS else 2, log_every=1)
    method, data = (toys.in_turns, toys.in_turns_data) if TURNS else (toys.contrastive, toys.toy_data)
    result = train.train(config, sys.argv[1], method=method(), data=data(make=slow))
    return 130 if result.stopped == "SIGINT" else 0


if __name__ == "__main__":
    sys.exit(main())
