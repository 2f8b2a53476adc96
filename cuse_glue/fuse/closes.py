"""A close comes before what its client asks for next, also by another device file.

Nobody waits for the answer to a close(2): the client goes on, and may want by another file what is
then free. The kernel keeps a queue for each device file. Before a request of one is handled, the
closes that the others have are.

What else the others have is handled after all has been looked at: whoever gets an answer may close
something, and ask for more by another file, while the rest is looked at. That close comes before
what is asked, too, so all is looked at until there is nothing more.
"""

from collections.abc import Iterable
from typing import Protocol


class Ended(Exception):
    """The connection to the kernel has ended."""


class Door(Protocol):
    """One connection to the kernel, which does not block."""

    @property
    def is_ready(self) -> bool:
        """It can be opened. What comes before is for whoever reads it."""

    def receive(self) -> memoryview | None:
        """The next request, good until the next call; None: there is none. Raises Ended."""

    def is_close(self, request: memoryview) -> bool: ...

    def handle(self, request: memoryview) -> None:
        """Never waits."""


def handle_in_order(door: Door, request: memoryview, others: Iterable[Door]) -> None:
    """Handle a request of `door` that is no close, and before it the closes that `others` have."""
    others = tuple(others)
    found = _look(others)
    if not found:
        door.handle(request)
        return
    found.insert(0, (door, _kept(request)))
    while more := _look((door, *others)):
        found += more
    for each, message in found:
        each.handle(message)


def _look(doors: Iterable[Door]) -> list[tuple[Door, memoryview]]:
    """Handle the closes that are there; returns what else is there. The end is for whoever reads
    the door to see.
    """
    found: list[tuple[Door, memoryview]] = []
    for door in doors:
        if not door.is_ready:
            continue
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
