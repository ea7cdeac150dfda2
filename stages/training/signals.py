"""Ctrl-C and SIGTERM (a queue's end of time, a shutdown) wait until a training has kept its state; a second does not.

SIGUSR1 (a queue's warning) asks a training to keep its state and to go on; whoever handled it before gets it then.
SIGKILL cannot wait: it loses what came after the last checkpoint.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from stages.training import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)
KEEP = signal.SIGUSR1


class Stop:
    """A request to stop, true once a signal has come.

    Attributes:
        signal: the number of that signal; 0 until then.
        keep: whether the state is to be kept now, although nobody asked to stop.
    """

    def __init__(self) -> None:
        self.signal, self.keep = 0, False
        self.then: Callable[[], None] = lambda: None  # hands the request to keep on to whoever had it before

    def kept(self) -> None:
        """The state is kept, as was asked."""
        if self.keep:
            self.keep = False
            self.then()

    def __bool__(self) -> bool:
        return self.signal != 0

    def obey(self, words: str) -> None:
        """Print `words` and leave as a stopped program does, where a signal has come.

        Raises:
            SystemExit: a signal has come; the status is 128 + its number.
        """
        if self.signal:
            print(f"\n{words}", file=sys.stderr, flush=True)
            raise SystemExit(128 + self.signal)


@contextmanager
def deferred() -> Iterator[Stop]:
    """Within the block, note the first Ctrl-C or SIGTERM instead of obeying it at once.

    Nothing changes in threads, which get no signals, nor in the processes of a torchrun, which must all stop together.
    A signal that is ignored stays ignored, each for itself: a job in the background ignores Ctrl-C and ends at SIGTERM.

    Yields:
        The request, to be obeyed when it suits.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread() or distributed.world() > 1:
        yield stop
        return

    # Whoever started this in the background wants it to ignore Ctrl-C. None: the handler is not Python's.
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        restore()  # whoever asks again does not want to wait

    for number in before:
        signal.signal(number, note)
    try:
        with _keeping(stop):
            yield stop
    finally:
        restore()


@contextmanager
def _keeping(stop: Stop) -> Iterator[None]:
    """Within the block, note requests to keep the state."""
    before = signal.getsignal(KEEP)
    if before is None:
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.keep = True

    def then() -> None:
        if callable(before) and before is not unmoved:
            before(KEEP, None)

    stop.then = then
    signal.signal(KEEP, note)
    try:
        yield
    finally:
        signal.signal(KEEP, before)


def unmoved(number: int, frame: FrameType | None) -> None:
    """Go on: what a command does at SIGUSR1 where no training is at work, instead of dying."""
