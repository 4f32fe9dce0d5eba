"""Work in spawned processes, in order, a little ahead of who asks for it."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from jaxvl.core.errors import InputError

Item, Result = TypeVar("Item"), TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int = 0, block: int = 32, few: int = 256
) -> Iterator[Result]:
    """`map(function, items)`, in order. function: of a module, it travels to spawned processes (so a script needs its
    `if __name__ == "__main__"` guard); items go there in blocks of `block`, and only a few blocks of results wait.

    processes: 0, one a core this process may use; 1, or fewer than `few` items: this process does the work.
    Raises InputError where a process is killed.
    """
    processes = processes or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if processes == 1 or len(items) < few:
        yield from map(function, items)
        return
    # spawned, not forked: the caller may hold threads
    spawn = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(processes, spawn, initializer=_leave_interrupts_to_the_parent)
    waiting: collections.deque = collections.deque()
    try:
        for begin in range(0, len(items), block):
            waiting.append(pool.submit(_work, function, items[begin : begin + block]))
            if len(waiting) > 3 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            "a reading process died: a script that reads in processes needs `if __name__ == '__main__':` around its "
            "work, and a file of its own; or memory ran out, then read with fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _work(function: Callable[[Item], Result], part: Sequence[Item]) -> list[Result]:
    return [function(item) for item in part]


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
