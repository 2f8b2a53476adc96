"""Mappings of a FUSE file: ranges that clients can map shared, and what they see and write there.

mmap(2) itself does not reach a FUSE server. Once the session has negotiated that the file can be
mapped at all, any range can be. Only the page faults come here, as READs of whole pages at their
offset; if one is refused, the client gets SIGBUS. So a range can be refused, but not by an errno of
mmap. munmap does not come here either. What was written comes as WRITEs, at msync, at munmap, or at
some other time.

The kernel has one page cache for all open files of the device, and it handles faults only below the
file's size. So when a range is shown it is put into the cache, which makes the file larger; and it
must lie where no other open file has anything.
"""

from collections.abc import Callable
from typing import Protocol

from .caller import Caller
from .open_file import OpenFile

Show = Callable[[int, bytes], None]


class Toucher(Caller):
    """A thread that reads, or has touched a page of a mapping, and waits for it."""

    __slots__ = ("_answers", "take_back")

    def __init__(
        self, tid: int, uid: int, gid: int, answer: Callable[[], None], take_back: Callable[[int, int], None]
    ) -> None:
        """`answer` tells the kernel that there is no such page.

        `take_back(offset, length)` (bytes) removes pages from the kernel's cache. First it waits
        until what was written to them has come to `Mapped.page_out`. So call it in any thread but
        the session's.
        """
        super().__init__(tid, uid, gid)
        self._answers = [answer]
        self.take_back = take_back

    def refuse(self) -> None:
        """Answer EIO at once: there is no such page. Any thread; only the first call has an effect.

        EIO gives a program's thread SIGBUS, unless `mmio/tracer.py` prevents it. From now on the
        number of the thread may be another's.
        """
        try:
            answer = self._answers.pop()
        except IndexError:
            return
        answer()

    def take(self) -> bool:
        """Take over the answer. False: somebody has answered, or taken it, already."""
        try:
            self._answers.pop()
        except IndexError:
            return False
        return True


class Mapped(Protocol):
    """What can be mapped. Offsets and sizes in bytes, whole pages."""

    def begin(self, show: Show) -> None:
        """From now on call `show`, with the offset and content of each range, before clients can
        map that range.
        """

    def page_in(self, file: OpenFile, toucher: Toucher, offset: int, size: int) -> bytes:
        """All `size` bytes that an open file has at `offset`. OSError: it has none; `toucher` gets
        SIGBUS. If `toucher` has been refused, the bytes are not looked at.
        """

    def page_out(self, offset: int, data: bytes) -> None:
        """Somebody wrote `data` at `offset`; by which open file cannot be told. Data outside of the
        present ranges is dropped.
        """
