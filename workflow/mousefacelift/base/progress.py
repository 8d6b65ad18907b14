"""Progress on stderr: a bar on a terminal, a line every ten percent in a log file."""

import sys
import threading
import time
from collections.abc import Callable


def track(total: int, what: str) -> Callable[[], None]:
    """Return a function to call after each of `total` items, from any thread; what: names the work."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        bar = Progress(*columns, console=Console(stderr=True))
        task = bar.add_task(what, total=total)
        bar.start()

        def advance() -> None:
            bar.advance(task)
            if bar.finished:
                bar.stop()

        return advance

    state = {"done": 0}
    lock, begin = threading.Lock(), time.monotonic()

    def report() -> None:
        with lock:
            state["done"] += 1
            done = state["done"]
        if done == total or done * 10 // total > (done - 1) * 10 // total:
            rate = done / max(time.monotonic() - begin, 1e-9)
            print(f"{what}: {done}/{total} ({rate:.1f}/s)", file=sys.stderr, flush=True)

    return report
