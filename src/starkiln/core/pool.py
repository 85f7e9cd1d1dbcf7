"""Worker processes: a function over items, results in the order of the items.

Workers are spawned, never forked (Polars and torch hold threads), and end by themselves when the
parent is gone, however it went.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from starkiln.core.errors import UserError


def _prepare(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Pool:
    """``workers`` processes, started at the first use; one worker means this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._executor is None:
            return
        if kind is not None:
            for process in list((self._executor._processes or {}).values()):
                process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None

    def completed(
        self, function: Callable[..., Any], calls: Iterable[tuple]
    ) -> Iterator[tuple[int, Any]]:
        """(index of the call, result) for each argument tuple, as they finish."""
        if self.workers == 1:
            for index, call in enumerate(calls):
                yield index, function(*call)
            return
        waiting: dict[Future, int] = {}
        queue = enumerate(calls)
        try:
            while True:
                for index, call in queue:
                    waiting[self._pool().submit(function, *call)] = index
                    if len(waiting) >= 2 * self.workers:  # bounds what lies in memory
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "run.workers", "a worker process died, most likely for want of memory", "lower it"
            ) from error

    def map(self, function: Callable[..., Any], calls: Iterable[tuple]) -> Iterator[Any]:
        """Results in the order of the calls."""
        ready: dict[int, Any] = {}
        following = 0
        for index, result in self.completed(function, calls):
            ready[index] = result
            while following in ready:
                yield ready.pop(following)
                following += 1

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_prepare,
                initargs=(os.getpid(),),
            )
        return self._executor
