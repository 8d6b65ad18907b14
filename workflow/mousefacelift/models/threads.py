"""Threads for compiled functions that hold no GIL."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The helper threads of one process; a forked child starts its own."""
    return ThreadPoolExecutor(max(len(os.sched_getaffinity(0)) - 1, 1), "kernels")


def parallel(kernel: Callable[..., None], size: int, block: int, *args: Any) -> None:
    """Run kernel(start, stop, *args) on blocks of range(size), by as many threads as torch may use.

    Not numba's number: to ask for it takes a lock that forked processes share, and one that is killed would keep it.
    """
    starts = iter(range(0, size, block))

    def work() -> None:
        for start in starts:
            kernel(start, min(start + block, size), *args)

    helpers = min(torch.get_num_threads(), -(-size // block)) - 1
    futures = [_pool(os.getpid()).submit(work) for _ in range(helpers)]
    work()
    for future in futures:
        future.result()
