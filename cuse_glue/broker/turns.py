"""The doors of one device in turn, so that a close comes before what its client asks for next.

Nobody waits for the answer to a close(2): the client goes on, and may want by another door what is
then free. The kernel keeps a queue for each door. Each door's thread waits for its own, and handles
a request only in its turn, of which there is one at a time. Before it sends a request on, it has
sent on all closes that the other doors have.

What else the others have is sent on after all has been looked at: whoever gets an answer may close
something, and ask for more by another door, while the rest is looked at. That close comes before
what is asked, too, so all is looked at until there is nothing more.
"""

import select
import threading
from collections.abc import Iterable
from typing import Final, Protocol


class Ended(Exception):
    """The connection to the kernel has ended."""


class Turning(Protocol):
    """A door, in its turn."""

    @property
    def fd(self) -> int: ...

    @property
    def is_ready(self) -> bool:
        """It can be opened. What comes before is for the door's own thread."""

    def receive(self) -> memoryview | None:
        """The next request, good until the next call; None: there is none. Raises Ended."""

    def is_close(self, request: memoryview) -> bool: ...

    def handle(self, request: memoryview) -> None:
        """Never waits."""


class Turns:
    """The turns of some doors, which do not block."""

    def __init__(self) -> None:
        self.doors: tuple[Turning, ...] = ()  # all of them, before the first turn
        self._lock: Final = threading.Lock()

    def read(self, door: Turning) -> None:
        """Handle the requests of one of the doors, until it has ended (Ended). In a thread of its
        own.
        """
        own, others = select.poll(), select.poll()
        rest = tuple(other for other in self.doors if other is not door)
        own.register(door.fd, select.POLLIN)
        for other in rest:
            others.register(other.fd, select.POLLIN)
        while True:
            own.poll()
            with self._lock:
                self._turn(door, rest, others)

    def _turn(self, door: Turning, rest: tuple[Turning, ...], others: "select.poll") -> None:
        while (request := door.receive()) is not None:
            if door.is_close(request) or not others.poll(0) or not (found := _look(rest)):
                door.handle(request)
                continue
            found.insert(0, (door, _kept(request)))
            while more := _look((door, *rest)):
                found += more
            for each, message in found:
                each.handle(message)


def _look(doors: Iterable[Turning]) -> list[tuple[Turning, memoryview]]:
    """Send on the closes that are there; what else is there. The end is for the door's own thread
    to see.
    """
    found: list[tuple[Turning, memoryview]] = []
    for door in filter(lambda door: door.is_ready, doors):
        try:
            while (request := door.receive()) is not None:
                if door.is_close(request):
                    door.handle(request)
                else:
                    found.append((door, _kept(request)))
        except Ended:
            pass
    return found


def _kept(request: memoryview) -> memoryview:
    return memoryview(bytearray(request))
