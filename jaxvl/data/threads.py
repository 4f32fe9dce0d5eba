"""Work on threads that stays a little ahead of who asks for it."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Sequence[Item], num_threads: int, ahead: int | None = None
) -> Iterator[Result]:
    """`map(function, items)`, in order, on `num_threads` threads; at most `ahead` (default two a thread) results wait.

    Unlike `ThreadPoolExecutor.map`, which works through all items at once and holds every result.
    """
    ahead = 2 * num_threads if ahead is None else ahead
    with futures.ThreadPoolExecutor(max(1, num_threads)) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
