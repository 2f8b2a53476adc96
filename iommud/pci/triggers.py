"""A client's eventfds as a device uses them: a Trigger is one that the device signals, an Ear one
that the client signals and the device hears. Whoever serves the device's file makes them out of the
client's descriptors.
"""

from collections.abc import Callable
from typing import Protocol


class Trigger(Protocol):
    """An eventfd that tells the client of an interrupt."""

    def signal(self) -> None: ...

    def close(self) -> None:
        """The device does not use it any more."""


class Ear(Protocol):
    """An eventfd that the client signals. `close`: the device does not hear it any more."""

    def close(self) -> None: ...


class Descriptors(Protocol):
    """The client's descriptors. EBADF: there is no such; EINVAL: it is no eventfd."""

    def trigger(self, fd: int) -> Trigger: ...

    def listen(self, fd: int, heard: Callable[[], None]) -> Ear:
        """`heard` is called each time that the eventfd is signalled; soon, if it is already."""
        ...
