"""The doors of one device in turn, so that closes come first (fuse/closes.py).

Each door's thread waits for its own connection, and handles requests only in its turn, of which
there is one at a time.
"""

import select
import threading
from typing import Final, Protocol

from ..fuse import closes


class Door(closes.Door, Protocol):
    """A door that can be waited for."""

    @property
    def fd(self) -> int: ...


class Turns:
    """The turns of some doors, which do not block."""

    def __init__(self) -> None:
        self.doors: tuple[Door, ...] = ()  # all of them, before the first turn
        self._lock: Final = threading.Lock()

    def read(self, door: Door) -> None:
        """Handle the requests of one of the doors, until it has ended (closes.Ended). In a thread
        of its own.
        """
        own, others = select.poll(), select.poll()
        rest = tuple(other for other in self.doors if other is not door)
        own.register(door.fd, select.POLLIN)
        for other in rest:
            others.register(other.fd, select.POLLIN)
        while True:
            own.poll()
            with self._lock:
                while (request := door.receive()) is not None:
                    if door.is_close(request) or not others.poll(0):
                        door.handle(request)
                    else:
                        closes.handle_in_order(door, request, rest)
