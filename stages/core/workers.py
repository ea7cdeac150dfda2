"""The one bounded pool of workers: threads or processes that give their results in order.

`in_order` serves who maps a function over items; `Pool` serves who hands in single calls and collects them later.
Both hold only a few calls ahead of the one that is waited for, so memory stays flat however long the list is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Generic, TypeVar

from stages.core.settings import TristyleError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # calls per worker that wait or run before the first of them must be collected
PARENT_SECONDS = 0.5  # between two looks of a process at whether its parent lives
RERUN = "Run again with workers=1; what is done is kept."


class Pool(Generic[Result]):
    """Workers whose results are collected in the order of their calls. A context manager.

    What a call raises is raised again by `collect`. When the body ends, running calls are finished and waiting ones
    are dropped.

    Args:
        workers: threads or processes, at least 1.
        processes: processes instead of threads. They are spawned, since a fork would copy torch's threads. Functions
            and arguments must be picklable. A function keeps what is expensive to open with `functools.lru_cache`.
        remedy: second sentence of the message when a process was killed.
    """

    def __init__(self, workers: int, processes: bool = False, remedy: str = RERUN) -> None:
        self.workers, self.remedy = max(workers, 1), remedy
        self._waiting: deque[Future[Result]] = deque()
        self._executor: Executor
        if processes:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, context, start_worker, (os.getpid(),))
        else:
            self._executor = ThreadPoolExecutor(self.workers)

    def __len__(self) -> int:
        """Calls that are not collected yet."""
        return len(self._waiting)

    def submit(self, function: Callable[..., Result], *arguments: Any) -> None:
        """Hand in a call.

        Raises:
            TristyleError: a process was killed.
        """
        try:
            self._waiting.append(self._executor.submit(function, *arguments))
        except BrokenProcessPool:
            raise self._killed() from None

    def collect(self) -> Result:
        """The result of the oldest call; waits for it.

        Raises:
            TristyleError: a process was killed. Also whatever the call raised.
        """
        try:
            return self._waiting.popleft().result()
        except BrokenProcessPool:
            raise self._killed() from None

    def drop(self) -> None:
        """Forget all calls that are not collected; those that run are finished, and their results are lost."""
        while self._waiting:
            self._waiting.popleft().cancel()

    def close(self) -> None:
        """Finish what runs, drop what waits, end the workers."""
        self._waiting.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _killed(self) -> TristyleError:
        return TristyleError(f"workers: a process was killed, for lack of memory as a rule. {self.remedy}")

    def __enter__(self) -> Pool[Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    ahead: int = AHEAD,
    processes: bool = False,
    remedy: str = RERUN,
) -> Iterator[Result]:
    """Results in the order of `items`, which are taken only as they are needed.

    Args:
        function: called with one item. See `Pool` for what it must be with `processes`.
        items: may be endless.
        workers: threads or processes. One process is this one: nothing is spawned, nothing runs ahead.
        ahead: calls per worker that wait or run at most.
        processes: processes instead of threads.
        remedy: second sentence of the message when a process was killed.

    Raises:
        TristyleError: a process was killed. Also whatever `function` raises, in its place in the order.
    """
    if processes and workers <= 1:
        yield from map(function, items)
        return

    with Pool[Result](workers, processes, remedy) as pool:
        for item in items:
            pool.submit(function, item)
            if len(pool) >= ahead * pool.workers:
                yield pool.collect()
        while len(pool):
            yield pool.collect()


def start_worker(parent: int) -> None:
    """Begin a process of a pool: one thread, deaf to Ctrl-C (the parent hears it), and no life after its parent's."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
