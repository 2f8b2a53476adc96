"""Closing files of clients. A client's own file system (FUSE) is asked by each close, and may never
answer. So a few threads do it: who wants a file closed waits for a moment at most. Files that none
of the threads comes to stay open, and are in the end refused to the same client as descriptors.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

MOMENT: Final = 0.02  # seconds
THREADS: Final = 16


class Closer:
    """Files that are to be closed, and the threads that do it. They end when there is none left."""

    def __init__(self, close: Callable[[int], None] = os.close) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._due: deque[tuple[int, threading.Event]] = deque()
        self._threads = 0

    def close(self, fd: int) -> None:
        """Close it, now or later. Returns after a MOMENT at most."""
        closed = threading.Event()
        with self._lock:
            self._due.append((fd, closed))
            another = self._threads < THREADS
            self._threads += another
        if another:
            try:
                threading.Thread(target=self._work, daemon=True).start()
            except RuntimeError:  # there is no memory for one; the next one will close it
                with self._lock:
                    self._threads -= 1
        closed.wait(MOMENT)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._threads -= 1
                    return
                fd, closed = self._due.popleft()
            with suppress(OSError):  # what a file system says of a close is for its client
                self._close(fd)
            closed.set()
