"""Memory that is pinned for a device: what a client has at an address, or in a file, made reachable
for as long as it is pinned.

A `Source` says whose memory it is: that of an address space, or a file that was fetched from one.
`Source.pin` looks at what is mapped there now, and refuses what the kernel would refuse to pin for
long. It touches no page. So its cost grows with the number of mappings only, and no client can make
us wait. It returns a `Pin` (pin.py tells what that can keep, and what it cannot).

Mappings of one memory, side by side, make one piece, which is looked up once, even if mprotect cut
a mapping into a hundred thousand. What takes long to ask (smaps, mountinfo) is asked once for a
pin. If there are many mappings, `look` asks for them in another thread, before the pin.

One thing is stricter than in the kernel, whose memfd_pin_folios ignores how a file was opened and
sealed. Here a file may be pinned for writing through a read-only descriptor, but writing to it is
refused.

Ref: v7.3 mm/gup.c check_vma_flags, memfd_pin_folios, writable_file_mapping_allowed;
drivers/iommu/iommufd/pages.c pfn_reader_user_pin
"""

import functools
import os
from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, ENOENT, ENOMEM
from typing import Any, Final, TypeVar

from ..errors import IoctlError
from ..process.vma import AddressSpaceGone, Vma
from ..request.address_space import Mm
from ..request.caller import Caller, forget_threads
from ..request.mm_cache import MmCache
from ..system import libc
from ..system.means import NO_DESCRIPTORS, SHORT, with_means
from ..system.page import PAGE_SIZE
from .client_file import LOCAL, SHORT_OF_MEANS, ClientFile, FileCache
from .look import Look
from .pin import Identity, InFile, InProcess, Piece, Pin, close_all, of_file, of_process
from .true_pin import TruePins

_T = TypeVar("_T")

__all__ = ["Pin", "Source", "Sources"]

# File systems that never write pages back, so that they need not notice when devices write to them.
# b"": it is not mounted (a driver's own).
_NEVER_WRITTEN_BACK: Final = frozenset((b"tmpfs", b"devtmpfs", b"hugetlbfs", b"ramfs", b""))


class Source:
    """Whose memory it is. There is one for each address space, user and file. It is given out
    without a reference: `get` it, and `put` it in the end.
    """

    __slots__ = ("_files", "_forget", "_look", "_refs", "_true_pins", "file", "mm", "uid")

    def __init__(
        self,
        mm: Mm,
        uid: int,
        files: FileCache,
        true_pins: TruePins | None,
        file: ClientFile | None = None,
        forget: Callable[[], object] | None = None,
    ) -> None:
        """`forget`: called at the last `put`."""
        self.mm: Final = mm  # what is charged by process; hashable
        self.uid: Final = uid
        self._files = files
        self._true_pins = true_pins
        self.file = file
        self._forget = forget
        self._refs = 0
        self._look: Look | None = None  # for the next pin

    @property
    def is_file(self) -> bool:
        """Whether `pin` takes file offsets, not addresses."""
        return self.file is not None

    def get(self) -> None:
        self._refs += 1
        if self._refs == 1:
            self.mm.get()
            if self.file is not None:
                self.file.get()

    def put(self) -> None:
        self._refs -= 1
        if self._refs == 0:
            if self._forget is not None:
                self._forget()
            if self.file is not None:
                self.file.put()
            self.mm.put()

    def alive(self) -> bool:
        """Whether some process still lives in the address space."""
        return self.mm.alive()

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK of the process (soft, bytes) now; if it is gone, as it was last known.
        None: unlimited.
        """
        return self.mm.memlock_limit()

    def locked_pages(self) -> int:
        """Pages that the process has locked itself (mlock)."""
        return self.mm.locked_pages()

    def pinned(self, npages: int, locked: bool) -> None:
        """Count `npages` more (fewer, if negative) as pinned, which the process pays for. `locked`:
        whether they also count as locked memory.
        """
        if npages and self._true_pins is not None:
            self._true_pins.count(self.mm, npages, npages if locked else 0)

    def read_now(self, address: int, buffer: memoryview, *, itself: bool = True) -> None:
        """Fill `buffer` from `address` (bytes), whatever is pinned. `itself`: if the process itself
        could read this now; else if another process could.

        IoctlError(EFAULT): it could not.
        """
        self._check_now(address, len(buffer), False, itself)
        done = self.mm.read(address, buffer)
        if done < len(buffer):
            raise IoctlError(EFAULT, f"address {address + done:#x} of process {self.mm.pid} cannot be read")

    def write_now(self, address: int, data: memoryview) -> None:
        """Write `data` to `address` (bytes) as the process could now. IoctlError(EFAULT): it could
        not; a part may have been written.
        """
        self._check_now(address, len(data), True)
        done = self.mm.write(address, data)
        if done < len(data):
            raise IoctlError(EFAULT, f"address {address + done:#x} of process {self.mm.pid} cannot be written")

    def _check_now(self, address: int, length: int, write: bool, itself: bool = True) -> None:
        end, position = address + length, address
        try:
            for vma in self.mm.maps.covering(address, end):
                if vma.start > position or not (vma.writable if write else vma.readable and (itself or not vma.unsaid)):
                    break
                position = vma.end
        except AddressSpaceGone:
            raise IoctlError(EFAULT, f"{self.mm.why_gone()}, with the memory at {address:#x}") from None
        if position < end:
            doing = "written" if write else "read"
            raise IoctlError(EFAULT, f"address {position:#x} of process {self.mm.pid} cannot be {doing}")

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> Pin:
        """Pin `length` bytes from `start` (an address, or a file offset; both page boundaries),
        for writing as well if `writable`.

        `brief`: for one copy at once. Shared memory is then reached in the process, which has its
        pages mapped already: mapping them here would cost more than the copy.

        IoctlError, and nothing is pinned: EFAULT: not mapped, not readable, not writable although
        asked for, beyond the file's end, device or secret memory, shared memory of a file that is
        written back if `writable`; or the address space is gone. EINVAL (a file): not on tmpfs or
        hugetlbfs, or not all of the range is within the file (a page in which the file ends is not
        within it). ENOMEM: we have no descriptors or no memory left.
        """
        if self.file is not None:
            mapped = _pin_file(self.file, start, length, writable)
            if self._true_pins is not None and not brief:
                self._true_pins.pin(self.mm, [mapped])
            return Pin(self, [mapped], truly=self._true_pins is not None)
        end = start + length
        position = start
        pieces: list[Piece] = []
        look, self._look = self._look or Look(self.mm), None
        try:
            for vma, upto in self._runs(look.covering(start, end), start, end, writable):
                pieces.append(self._piece(look, vma, position, upto - position, writable, brief))
                position = upto
            if position < end:
                raise IoctlError(EFAULT, f"nothing is mapped at {position:#x}")
            guard = self.mm.first_guard(start, end)
            if guard is not None:
                raise IoctlError(EFAULT, f"a guard region is at {guard:#x} (MADV_GUARD_INSTALL)")
        except AddressSpaceGone:
            close_all(pieces)
            raise IoctlError(EFAULT, f"{self.mm.why_gone()}, with the memory at {position:#x}") from None
        except OSError as error:
            close_all(pieces)
            if error.errno not in SHORT_OF_MEANS:
                raise
            raise IoctlError(ENOMEM, f"the mapping at {position:#x} cannot be held: {error.strerror}") from None
        except BaseException:
            close_all(pieces)
            raise
        if self._true_pins is not None and not brief:
            self._true_pins.pin(self.mm, pieces)
        return Pin(self, pieces, truly=self._true_pins is not None)

    def _runs(self, vmas: list[Vma], start: int, end: int, writable: bool) -> Iterator[tuple[Vma, int]]:
        """What is mapped from `start` on, up to the first gap: for each memory its first mapping,
        and where the memory ends. IoctlError: something there cannot be pinned.
        """
        position = start
        run: tuple[Any, ...] | None = None
        first = None
        by_protection = self._true_pins is not None  # io_uring takes what is writable
        for vma in vmas:
            at, upto, readable, can_write, shared, offset, dev, inode, unsaid = vma
            if at > position:
                break
            if not (can_write if writable else readable):
                raise IoctlError(
                    EFAULT, f"the mapping at {position:#x} is not {'writable' if writable else 'readable'}"
                )
            if unsaid and not writable:
                self._check_unsaid(vma, position, min(upto, end))
            same = shared, dev, inode, inode and offset - at, by_protection and can_write
            if same != run:
                if first is not None:
                    yield first, position
                run, first = same, vma
            position = upto
        if first is not None:
            yield first, min(position, end)

    def _check_unsaid(self, vma: Vma, start: int, end: int) -> None:
        """Memory without PROT_READ can be pinned for reading only if its pages are there: then the
        kernel finds them without a look at the mapping.

        Ref: v7.3 mm/gup.c gup_fast_pte_range, gup_must_unshare
        """
        away = self.mm.first_away(start, end, its_own=not vma.shared) if vma.writable or not vma.shared else start
        if away is not None:
            raise IoctlError(
                EFAULT, f"the mapping at {away:#x} lacks PROT_READ, and its page is not there to be read all the same"
            )

    def _piece(self, look: Look, vma: Vma, address: int, length: int, writable: bool, brief: bool) -> Piece:
        """OSError: we are short of means (EMFILE, ENFILE, ENOMEM)."""
        if not vma.inode:
            return InProcess(self.mm, vma, address, length)
        offset = address + vma.delta
        kind = self._files.kind(vma.dev, look.mounts)
        if kind == b"secretmem":
            raise IoctlError(EFAULT, f"secret memory is mapped at {address:#x}")
        if vma.shared and writable and kind not in _NEVER_WRITTEN_BACK:
            raise IoctlError(EFAULT, f"a file of {kind.decode()} is mapped shared at {address:#x}: it is written back")
        file, page_size = None, PAGE_SIZE
        if kind in LOCAL:
            to_write = writable and vma.shared
            file = self._files.mapped(
                vma.dev, vma.inode, to_write, lambda: self._open_mapped(vma, vma.shared and not brief)
            )
        if file is None:
            plain = kind in LOCAL and self._files.plain == (vma.dev, vma.inode)
            device = look.device(address, address + length) if not plain else None
            if device is not None:
                raise IoctlError(EFAULT, f"a device's memory is mapped at {device:#x}")
            return InProcess(self.mm, vma, address, length)
        file.get()
        try:
            if offset + length - PAGE_SIZE >= file.size:
                raise IoctlError(EFAULT, f"the mapping at {address:#x} reaches beyond the end of its file")
            page_size = file.page_size
            if vma.shared and not brief:
                window = file.window(offset, offset + length, writable)
                if window.writable or not writable:
                    return InFile(file, window, offset, length)
                window.get()
                window.put()
        except OSError as error:
            if error.errno in SHORT_OF_MEANS:
                raise
        finally:
            file.put()
        return InProcess(self.mm, vma, address, length, page_size)

    def _open_mapped(self, vma: Vma, search: bool) -> int:
        """An O_PATH descriptor of the mapped file; close it. `search`: if we lack CAP_SYS_ADMIN,
        search for the file among the process's descriptors.
        """
        try:
            return self.mm.map_file(vma.start, vma.end)
        except PermissionError:
            if not search:
                raise
        for fd in self.mm.descriptors():
            try:
                if libc.identity(fd) == (vma.dev, vma.inode):
                    return os.dup(fd)
            except PermissionError:
                pass  # a FUSE file that does not let us in
        raise FileNotFoundError(ENOENT, "no descriptor of the file that is mapped")

    def look(self, start: int, length: int) -> Callable[[], None] | None:
        """Look ahead at what a `pin` of these bytes (page boundaries) will ask. If something is
        returned, call it in a worker thread, as it takes long.

        This is for the next pin. If there will be none, call `forget_look`.
        """
        if self.file is not None:
            return None
        self._look = look = Look(self.mm)
        return look.begin(start, start + length)

    def forget_look(self) -> None:
        self._look = None


class Sources:
    """All sources that are known, each once. Only for the task that serves requests, not for worker
    threads.
    """

    def __init__(self, *, true_pins: bool = False, harmless_filters: int | None = None) -> None:
        """`true_pins`: pin by io_uring what can be pinned so. `harmless_filters`: as in `seize`.
        Unusable: the machine cannot make true pins.
        """
        self._mms = MmCache()
        self._files = FileCache()
        self._spaces: dict[tuple[Mm, int], Source] = {}
        self._of_files: dict[tuple[ClientFile, Mm, int], Source] = {}
        self.true_pins = TruePins(self._mms.of, harmless_filters) if true_pins else None

    def address_space(self, caller: Caller) -> Source:
        """The caller's memory. OSError: the process is gone, or we may not look into it (another
        user's, or not dumpable).

        IoctlError(ENOMEM): we have no descriptors left. The kernel would need none.
        """
        mm = self._mm(caller)
        key = mm, caller.uid
        source = self._spaces.get(key)
        if source is None:
            source = self._spaces[key] = Source(mm, caller.uid, self._files, self.true_pins)
            mm.at_close.append(lambda: self._spaces.pop(key))
        return source

    def file(self, caller: Caller, number: int) -> Source:
        """The open file behind the caller's descriptor `number`. `get` it before anything else,
        and `put` it when not needed.

        OSError(EBADF): no such descriptor, or one opened with O_PATH. Other OSErrors: as
        `address_space`, or it may not be fetched.
        """
        # This comes first: to open the file, we may have to close what is kept only for speed.
        file = _lasting(lambda: self._files.of(caller, number))
        try:
            return self._of_file(self._mm(caller), caller, file)
        except (OSError, IoctlError):
            file.get()
            file.put()
            raise

    def moved(self, caller: Caller, source: Source) -> Source:
        """A source for the file of `source`, with the caller as the one who pays. `get` it.
        `source` must have a reference. OSError: as `address_space`.
        """
        mm = self._mm(caller)
        assert source.file is not None
        return self._of_file(mm, caller, source.file)

    def _of_file(self, mm: Mm, caller: Caller, file: ClientFile) -> Source:
        key = file, mm, caller.uid
        source = self._of_files.get(key)
        if source is None:
            forget = functools.partial(self._of_files.pop, key)
            source = self._of_files[key] = Source(mm, caller.uid, self._files, self.true_pins, file, forget)
        return source

    def page_identity(self, caller: Caller, address: int, *, write: bool = False) -> Identity:
        """Which page the caller has at `address` now, as `Pin.identity` says it.

        IoctlError(EFAULT): nothing is mapped there, or it cannot be read (`write`: written).
        OSError: as `address_space`.
        """
        mm = self._mm(caller)
        page = address - address % PAGE_SIZE
        try:
            vmas = mm.maps.covering(page, page + PAGE_SIZE)
        except AddressSpaceGone:
            raise IoctlError(EFAULT, mm.why_gone()) from None
        vma = vmas[0] if vmas else None
        away = vma is not None and vma.unsaid and not write and mm.first_away(page, page + PAGE_SIZE) is not None
        if vma is None or away or not (vma.writable if write else vma.readable):
            raise IoctlError(EFAULT, f"address {address:#x} cannot be {'written' if write else 'read'}")
        if mm.first_guard(page, page + PAGE_SIZE) is not None:
            raise IoctlError(EFAULT, f"a guard region is at {page:#x}")
        # A page of a private mapping that is truly pinned is the process's own from then on, and no
        # page of the file any more.
        if vma.inode and (vma.shared or (self.true_pins is not None and vma.writable and mm.of_file(page))):
            return of_file(vma.dev, vma.inode, page + vma.delta)
        return of_process(mm, page)

    def forget_callers(self) -> None:
        """Close what is kept about callers, except what something else refers to. It is opened
        again when they call.
        """
        self._mms.close()
        forget_threads()

    def _mm(self, caller: Caller) -> Mm:
        try:
            return self._mms.of(caller)
        except OSError as error:
            if error.errno not in SHORT:
                raise
        return _lasting(lambda: self._mms.of(caller))


def _lasting(look: Callable[[], _T]) -> _T:
    """Returns what `look` opens. IoctlError(ENOMEM): we have no descriptor for it."""
    try:
        return with_means(look)
    except OSError as error:
        if error.errno not in SHORT:
            raise
    raise IoctlError(ENOMEM, NO_DESCRIPTORS)


def _pin_file(file: ClientFile, start: int, length: int, writable: bool) -> InFile:
    if not file.in_memory:
        raise IoctlError(EINVAL, "only files of tmpfs (memfd) and hugetlbfs can be pinned")
    size = file.size
    if start + length > size:
        raise IoctlError(EINVAL, f"bytes {start:#x}+{length:#x} reach beyond the file's end at {size:#x}")
    try:
        window = file.window(start, start + length, writable)
    except OSError as error:
        if error.errno in SHORT_OF_MEANS:
            raise IoctlError(ENOMEM, f"the file cannot be mapped: {error.strerror}") from None
        return InFile(file, None, start, length)
    return InFile(file, window, start, length)
