"""Closing files of clients. Each close asks the file's file system. That may be a client's own
(FUSE), and may never answer. So a few threads do the closing: who wants a file closed waits for a
moment at most. Files that no thread gets to stay open; in the end no descriptors are left for that
client.
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
    """Files that are to be closed, and the threads that do it. Threads end when no file is left."""

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
            except RuntimeError:  # no memory for a thread: the next thread will close the file
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
            with suppress(OSError):  # an error of the client's file system does not concern us
                self._close(fd)
            closed.set()
