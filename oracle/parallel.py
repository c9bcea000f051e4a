"""Work on a stream in all cores: results in order, memory bounded."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(
    function: Callable[[In], Out], items: Iterable[In], workers: int, initializer: Callable[[], None] | None = None
) -> Iterator[tuple[In, Out]]:
    """Yield (item, function(item)) in the order of `items`.

    Unlike `Pool.imap` it never reads ahead more than two items per worker. An exception in a worker is raised
    here. One worker means this process: no start-up cost for small jobs.
    """
    if workers <= 1:
        if initializer:
            initializer()
        yield from ((item, function(item)) for item in items)
        return
    # spawn: a fork would copy the locks of whatever threads happen to run.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer) as pool:
        waiting: deque[tuple[In, Future[Out]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 2 * workers:
                item, result = waiting.popleft()
                yield item, result.result()
        for item, result in waiting:
            yield item, result.result()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
