"""Mappings of a FUSE file: ranges of it that clients can map shared, and what they see and write there.

mmap(2) itself does not reach a FUSE server: where the session has negotiated that the file can be mapped at all, any range can be. What
comes here are the page faults, as READs of whole pages at their offset; a refused one is SIGBUS. So a range can be refused, but not by an
errno of mmap. Nor does munmap come here; what was written comes as WRITEs at msync, munmap, or some time.

The kernel has one page cache for all open files of the device, and faults only below the file's size. So a range is put into the cache, by
which the file grows, when it is shown; and it must lie where no other open file has anything.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .node import OpenFile

Show = Callable[[int, bytes], None]


class Mapped(Protocol):
    """What can be mapped. Offsets and sizes in bytes, whole pages."""

    def begin(self, show: Show) -> None:
        """From now on `show` is to be called, with offset and content, of each range before clients can map it."""

    def page_in(self, file: "OpenFile", offset: int, size: int) -> bytes:
        """What an open file has there, all of it. OSError: nothing."""

    def page_out(self, offset: int, data: bytes) -> None:
        """Somebody wrote there. By which open file cannot be told. What is no range any more is dropped."""
