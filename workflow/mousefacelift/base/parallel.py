"""Work on many items in threads, with the results in the items' order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield the function's value for each item, in order. Only a few items are worked on ahead: memory stays bounded."""
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # after an error, what has not begun is left
        pool.shutdown(cancel_futures=True)
