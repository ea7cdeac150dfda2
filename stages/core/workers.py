"""Worker processes: how one begins."""

from __future__ import annotations

import os
import signal
import threading
import time


def start_worker(parent: int) -> None:
    """Begin a process of a pool: one thread, deaf to Ctrl-C (the parent hears it), and no life after its parent's."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
