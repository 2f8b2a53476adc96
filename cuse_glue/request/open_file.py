"""An open file, as every door sees it. Whoever implements these protocols decides what the file
*means*.
"""

from collections.abc import Callable
from typing import Protocol

from .caller import Caller


class OpenFile(Protocol):
    """What one open(2) made. Methods may raise OSError, with the errno for the client."""

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        """The result of ioctl(2): any int of 32 bits, or -errno."""

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        """Up to `size` bytes at `offset` (bytes; 0 where the file has no positions)."""

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        """How many bytes of `data` were written at `offset`."""

    def poll(self, wake: Callable[[], None] | None) -> int:
        """The events that are ready now. If `wake` is given, call it once when that changes."""

    def release(self) -> None:
        """The last descriptor was closed. Must not fail."""


class Opener(Protocol):
    def open(self, caller: Caller, flags: int) -> OpenFile: ...
