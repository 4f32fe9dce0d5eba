"""One of several processes that train a toy together. argv: port, processes, process, workdir, steps, signal or '-'."""

import sys

import jax

port, processes, process, workdir, steps, stop = sys.argv[1:]


def main() -> None:
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        num_processes=int(processes),
        process_id=int(process),
        initialization_timeout=60,
        heartbeat_timeout_seconds=30,
    )
    from jaxvl.verbs import train
    from tests import toys
    from tests.multiprocess import shared

    assert jax.device_count() == shared.DEVICES
    slow = stop != "-"
    data = toys.toy_data(make=shared.slow_row if slow else toys.make_row)
    result = train.train(shared.config(int(steps)), workdir, method=toys.contrastive(), data=data)
    print("RESULT", result.step, result.stopped, result.recompilations, flush=True)


if __name__ == "__main__":
    main()
