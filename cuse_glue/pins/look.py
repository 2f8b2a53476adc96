"""What a pin asks about a process: what is mapped, on which file systems, and which mappings have
no pages. Each is asked once, and only if needed.
"""

import os
from collections.abc import Callable
from errno import EFAULT
from typing import Final

from ..errors import IoctlError
from ..process.vma import AddressSpaceGone, Vma, flagged
from ..request.address_space import Mm
from .client_file import SHORT_OF_MEANS, is_plain

FEW: Final = 64  # mappings: fewer are asked for at once, so many or more in another thread


class Look:
    """The questions that a pin asks about a process, each once."""

    __slots__ = ("_devices", "_known", "_mm", "_mounts")

    def __init__(self, mm: Mm) -> None:
        self._mm = mm
        self._mounts: bytes | None = None
        self._devices: list[tuple[int, int]] | None = None
        self._known: tuple[int, int, list[Vma]] | None = None

    def begin(self, start: int, end: int) -> Callable[[], None] | None:
        """If there are few mappings, ask for them now. Else return a function that asks for them:
        call it, in any thread.
        """
        try:
            some = self._mm.maps.covering(start, end, FEW)
        except (AddressSpaceGone, OSError):
            return None  # the pin will find out
        if len(some) < FEW:
            self._known = start, end, some
            return None

        plain = self._is_plain(some[0])

        def ask() -> None:
            try:
                self._known = start, end, self._mm.maps.covering(start, end)
                if not plain:
                    self.device(start, end)
            except (AddressSpaceGone, OSError, IoctlError):
                pass

        return ask

    def _is_plain(self, vma: Vma) -> bool:
        """Whether we know at once that no device's memory is mapped here."""
        if not vma.inode:
            return True
        try:
            fd = self._mm.map_file(vma.start, vma.end)
        except OSError:
            return False
        try:
            return is_plain(os.fstat(fd))
        finally:
            os.close(fd)

    def covering(self, start: int, end: int) -> list[Vma]:
        """As Maps.covering."""
        if self._known is not None and self._known[:2] == (start, end):
            return self._known[2]
        return self._mm.maps.covering(start, end)

    def mounts(self) -> bytes:
        """The file systems in the client's mount namespace; empty when the client is gone."""
        if self._mounts is None:
            try:
                self._mounts = self._mm.thread_file("mountinfo")
            except OSError as error:
                if error.errno in SHORT_OF_MEANS:
                    raise
                self._mounts = b""
        return self._mounts

    def device(self, start: int, end: int) -> int | None:
        """Where memory without pages is mapped (VM_IO, VM_PFNMAP), such as a device's, which the
        kernel does not pin. None: nowhere.
        """
        if self._devices is None:
            try:
                with self._mm.opened("smaps") as smaps:
                    self._devices = flagged(smaps, (b"io", b"pf"))
            except OSError as error:
                if error.errno in SHORT_OF_MEANS:
                    raise
                raise IoctlError(EFAULT, f"{self._mm.why_gone()}, with the memory at {start:#x}") from None
        return next((max(low, start) for low, high in self._devices if low < end and start < high), None)
