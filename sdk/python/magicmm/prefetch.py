"""Run slow preparation ahead of a consumer, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(tasks: Iterable[T], work: Callable[[T], R], workers: int, window: int) -> Generator[R, None, None]:
    """Yield `work(task)` for each task in order, at most `window` of them finished or under way.

    Closing the generator cancels what has not started. An exception of `work` comes out at its turn.
    """
    queue: deque[Future[R]] = deque()
    rest = iter(tasks)
    with ThreadPoolExecutor(workers, thread_name_prefix="magicmm-decode") as pool:
        try:
            queue.extend(pool.submit(work, task) for task in islice(rest, window))
            while queue:
                ready = queue.popleft()
                # Refill before handing over, so that the workers stay busy while the consumer works.
                queue.extend(pool.submit(work, task) for task in islice(rest, 1))
                yield ready.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
