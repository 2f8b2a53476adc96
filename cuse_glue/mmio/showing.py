"""Threads that cannot be traced are given the page itself, for as short a time as possible.

A thread that a debugger traces can have no second tracer. It is given the page as it is, and the
page is taken back at once. If the thread has written to it, the page comes back as a WRITE, and the
bytes that differ are stored to the device. So

- loads have no effect on the device;
- a store of the value that was there already is not seen;
- of any other store it is known only which bytes changed;
- of several stores in quick succession only the last is known.

While the page is there, nobody's accesses to it are trapped.
"""

import queue
import threading
from collections.abc import Callable, Hashable
from typing import Final

from .device import Device, Fault

PAGE: Final = 4096  # bytes
_WIDEST: Final = 8  # bytes of one store that is made of differences

_Back = tuple[Callable[[int, int], None], int, int]


class Showing:
    """What is shown. For the session's thread; a thread of its own takes the pages back."""

    def __init__(self) -> None:
        # by the file and the offset of the page
        self._shown: dict[tuple[Hashable, int], tuple[bytes, Device]] = {}
        self._back: queue.SimpleQueue[_Back | None] = queue.SimpleQueue()
        self._taker: threading.Thread | None = None

    def close(self) -> None:
        """Nothing more is shown."""
        self._back.put(None)

    def show(self, fault: Fault, file: Hashable, offset: int, size: int, device: Device) -> bytes | None:
        """Pages of a file to answer a fault with; None: there are none to show."""
        data = device.peek(offset, size)
        if data is None:
            return None
        for at in range(0, size, PAGE):
            self._shown[file, offset + at] = data[at : at + PAGE], device
        if self._taker is None:
            self._taker = threading.Thread(target=self._take_back, daemon=True)
            self._taker.start()
        self._back.put((fault.take_back, offset, size))
        return data

    def page_out(self, file: Hashable, offset: int, data: bytes) -> None:
        """Pages come back."""
        for at in range(0, len(data), PAGE):
            before, device = self._shown.get((file, offset + at), (b"", None))
            if device is not None:
                self._store(device, offset + at, before, data[at : at + PAGE])

    @staticmethod
    def _store(device: Device, offset: int, before: bytes, after: bytes) -> None:
        """One store for each eight bytes with differences: of the smallest aligned part of 1, 2, 4
        or 8 bytes that contains them all.
        """
        for at in range(0, len(after), _WIDEST):
            differ = [byte for byte in range(at, at + _WIDEST) if before[byte] != after[byte]]
            if differ:
                size = 1
                while differ[0] // size != differ[-1] // size:
                    size *= 2
                start = differ[0] // size * size
                device.store(offset + start, size, int.from_bytes(after[start : start + size], "little"))

    def _take_back(self) -> None:
        while (back := self._back.get()) is not None:
            take_back, offset, size = back
            take_back(offset, size)
