"""Ctrl-C and SIGTERM (a queue's end of time, a shutdown) wait until a training has kept its state; a second does not.

A kill cannot wait: it loses what came after the last checkpoint.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stages.training import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has asked to stop; as a truth value, and obeyed when it suits."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def obey(self, words: str) -> None:
        """Leave as a stopped program does (status 128 + signal) and say `words`, where a signal has come.

        Raises:
            SystemExit: it has.
        """
        if self.signal:
            print(f"\n{words}", file=sys.stderr, flush=True)
            raise SystemExit(128 + self.signal)


@contextmanager
def deferred() -> Iterator[Stop]:
    """Within the block, the first Ctrl-C or SIGTERM is noted in what the context gives and does nothing else.

    Left alone are threads, which get no signals, the processes of a torchrun, which must all stop together, and signals
    that are ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or distributed.world() > 1:
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in [number for number, handler in before.items() if handler in (None, signal.SIG_IGN)]:
        del before[number]  # whoever started this in the background wants it to ignore Ctrl-C; None: not Python's

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        restore()  # whoever asks again does not want to wait

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
