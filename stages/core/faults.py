"""The last word of a command: whatever ended it becomes one line on stderr and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
import threading
import traceback
import warnings
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

from stages.core.settings import TristyleError

STOPPED, CLOSED = 130, 141  # 128 + SIGINT, 128 + SIGPIPE
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED_DISK = (errno.EROFS, errno.EACCES, errno.EPERM)
WORKERS = "workers: a process was killed, mostly for lack of memory. Run again with workers=1; what is done is kept."
PEER = "processes: another one is gone (killed, or out of memory). Run the same command again; what is done is kept."
SMALLER = "Set a smaller batch or size, or fewer workers."
REFERENCE = "A dollar sign before a brace is a reference: for the sign itself write \\$, and quote the value twice."
MEMORY = ("DefaultCPUAllocator", "alloc_cpu", "out of memory", "can't allocate memory", "Cannot allocate memory",
          "bad_alloc", "bad allocation", "failed to map segment", "Insufficient memory")  # fmt: skip
CONNECTIONS = ("gloo", "NCCL")  # what connects the processes of a training


def settle_streams() -> None:
    """Give a process that was started without stdout or stderr a place to print to, and let it print any name."""
    held = []
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) < 3:
            held.append(number)  # a file opened later must not become stderr
        os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _QuietPillow:
    """A context without Pillow's warnings and log lines: what it thinks of a damaged file, beside our own line.

    Python's filters of warnings belong to the process and not to a thread. So the first thread that enters sets them,
    and the last one that leaves puts them back.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                logging.getLogger("PIL").setLevel(logging.CRITICAL)
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.filters.__exit__(None, None, None)


quiet_pillow = _QuietPillow()


def line_of(error: BaseException) -> str | None:
    """What a user can do about an error, in one line; None where it is a fault of ours."""
    if isinstance(error, TristyleError):
        return (str(error).splitlines() or [""])[0]
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, BrokenProcessPool):
        return WORKERS
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY):
        return f"memory: not enough for these settings ({text[:160]}). {SMALLER}"
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in CONNECTIONS):
        return PEER
    if isinstance(error, ImportError):
        name = error.name or "a package"
        return f"{name}: cannot be imported ({text}). Install it: pip install {name.partition('.')[0]}"
    if isinstance(error, UnicodeError):
        return f"a name or text is not UTF-8 ({text}). Rename the file, or save it in UTF-8."
    return _disk(error) if isinstance(error, OSError) and error.errno is not None else None


def _disk(error: OSError) -> str | None:
    """An error of the file system."""
    place = str(error.filename) if error.filename is not None else "the disk"
    need = getattr(error, "needed", None)
    size = f"{need / 1e6:.1f} MB" if need and need >= 100_000 else f"{need} bytes"
    asked = f"; {size} are needed" if need else ""
    reason = f"({error.strerror}{asked})"
    if error.errno in FULL:
        return f"{place}: cannot be written {reason}. Make room, then run again; what is done is kept."
    if error.errno in CLOSED_DISK:
        return f"{place}: cannot be read or written {reason}. Change its permissions, or name another folder."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{place}: too many files are open {reason}. Raise `ulimit -n`, or set fewer workers."
    if error.filename is None:
        return None
    return f"{place}: cannot be used {reason}. Check the path and the disk."


def end(program: str, error: BaseException) -> int:
    """Print the one line for what ended a program; the exit code.

    A fault of ours is said to be one; its traceback goes to a file that the line names.
    """
    if isinstance(error, KeyboardInterrupt):
        return _print(f"{program}: stopped. Nothing half-written is left; run it again to continue.", STOPPED)
    if isinstance(error, BrokenPipeError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return CLOSED
    return _print(f"{program}: {line_of(error) or _own(error)}", 2)


def _own(error: BaseException) -> str:
    """The line for a fault of ours."""
    said = (str(error).splitlines() or ["no message"])[0][:200]
    text = "".join(traceback.format_exception(error))
    where = "HYDRA_FULL_ERROR=1 shows the traceback"
    with suppress(OSError):
        handle, name = tempfile.mkstemp(".log", "tristyle-fault-")
        with open(handle, "w", errors="backslashreplace") as file:
            file.write(text)
        where = f"its log is {Path(name)}"
    return f"a fault of tristyle ({type(error).__name__}: {said}). Please report it; {where}"


def _print(line: str, code: int) -> int:
    with suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)
    return code
