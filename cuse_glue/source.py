"""Memory that is held for a device: what a client has at an address, or in a file, made reachable for as long as it is pinned.

A `Source` says whose memory: an address space, or a file that was fetched from it. `Source.pin` looks at what is mapped there now and
refuses what the kernel would refuse to pin for long. No page is touched: it costs as much as there are mappings, and no client can
make us wait. What it gives is a `Pin` (pin.py tells what that can keep, and what it cannot).

One thing is stricter than the kernel's memfd_pin_folios, which ignores how a file was opened and sealed: it may be pinned for writing
through a read-only descriptor, but writing to it is refused.

Ref: v7.3 mm/gup.c check_vma_flags, memfd_pin_folios, writable_file_mapping_allowed; drivers/iommu/iommufd/pages.c pfn_reader_user_pin
"""

import os
from errno import EFAULT, EINVAL, ENOENT, ENOMEM
from typing import Any, Final

from . import libc
from .caller import Caller
from .held_file import LOCAL, SHORT_OF_MEANS, FileCache, HeldFile
from .origin import PAGE_SIZE, Mm, MmCache
from .pin import InProcess, Mapped, Piece, Pin, Refused, close_all
from .true_pin import TruePins
from .vma import Gone, Vma, vm_flags

__all__ = ["Pin", "Refused", "Source", "Sources"]

# Whose pages may be written for long behind the file system's back: nothing is ever written back. b"": not mounted (a driver's own).
_NEVER_WRITTEN_BACK: Final = frozenset((b"tmpfs", b"devtmpfs", b"hugetlbfs", b"ramfs", b""))


class Source:
    """Whose memory: one for each (address space, user, file). Given out unheld: `hold` it, and `drop` it in the end."""

    __slots__ = ("_files", "_holders", "_true_pins", "held_file", "mm", "uid")

    def __init__(self, mm: Mm, uid: int, files: FileCache, true_pins: TruePins | None, file: HeldFile | None = None) -> None:
        self.mm: Final = mm  # what is charged by process; hashable
        self.uid: Final = uid
        self._files = files
        self._true_pins = true_pins
        self.held_file = file
        self._holders = 0

    @property
    def is_file(self) -> bool:
        """Whether `pin` takes file offsets, not addresses."""
        return self.held_file is not None

    @property
    def trusted(self) -> bool:
        """Whether the client would gain nothing from what we can do that it cannot (origin.py)."""
        return self.uid in (0, os.geteuid())

    def hold(self) -> None:
        self._holders += 1
        if self._holders == 1:
            self.mm.hold()
            if self.held_file is not None:
                self.held_file.hold()

    def drop(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            if self.held_file is not None:
                del self.held_file.sources[self.mm, self.uid]
                self.held_file.drop()
            self.mm.drop()

    def alive(self) -> bool:
        """Whether somebody still lives in the address space."""
        return self.mm.alive()

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK (soft, bytes) of the process now, or as last known when it is gone; None: unlimited."""
        return self.mm.memlock_limit()

    def locked_pages(self) -> int:
        """Pages that the process has locked itself (mlock)."""
        return self.mm.locked_pages()

    def pinned(self, npages: int, locked: bool) -> None:
        """So many pages more (fewer, if negative) are pinned of what the process pays for; `locked`: which count as locked memory."""
        if self._true_pins is not None:
            self._true_pins.count(self.mm, npages, npages if locked else 0)

    def read_now(self, address: int, buffer: memoryview) -> None:
        """Fill `buffer` from `address` (bytes) as the process could now, whatever is pinned. Refused(EFAULT): it could not."""
        self._check_now(address, len(buffer), False)
        done = self.mm.read(address, buffer)
        if done < len(buffer):
            raise Refused(EFAULT, f"address {address + done:#x} of process {self.mm.pid} cannot be read")

    def write_now(self, address: int, data: memoryview) -> None:
        """Write `data` to `address` (bytes) as the process could now. Refused(EFAULT): it could not; a part may have been written."""
        self._check_now(address, len(data), True)
        done = self.mm.write(address, data, trusted=self.trusted)
        if done < len(data):
            raise Refused(EFAULT, f"address {address + done:#x} of process {self.mm.pid} cannot be written")

    def _check_now(self, address: int, length: int, write: bool) -> None:
        end, position = address + length, address
        try:
            for vma in self.mm.maps.covering(address, end):
                if vma.start > position or not (vma.writable if write else vma.readable):
                    break
                position = vma.end
        except Gone:
            raise Refused(EFAULT, f"{self.mm.fate()}, with the memory at {address:#x}") from None
        if position < end:
            doing = "written" if write else "read"
            raise Refused(EFAULT, f"address {position:#x} of process {self.mm.pid} cannot be {doing}")

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> Pin:
        """Hold `length` bytes from `start` (an address, or a file offset; both page boundaries), for writing as well if `writable`.

        `brief`: for one copy at once. Shared memory is then reached in the process, which has its pages mapped already: mapping them here
        would cost more than the copy.

        Refused, and nothing is held: EFAULT: not mapped, not readable, not writable although asked for, beyond the file's end, device or
        secret memory, shared memory of a file that is written back if `writable`; or the address space is gone. EINVAL (a file): not
        on tmpfs or hugetlbfs, or not all of the range is within it (a page that the file ends in is not). ENOMEM: no descriptors are left.
        """
        if self.held_file is not None:
            mapped = _pin_file(self.held_file, start, length, writable)
            if self._true_pins is not None and not brief:
                self._true_pins.hold(self.mm, [mapped])
            return Pin(self, [mapped])
        end = start + length
        position = start
        pieces: list[Piece] = []
        try:
            for vma in self.mm.maps.covering(start, end):
                if vma.start > position:
                    break
                upto = min(vma.end, end)
                pieces.append(self._piece(vma, position, upto - position, writable, brief))
                position = upto
            if position < end:
                raise Refused(EFAULT, f"nothing is mapped at {position:#x}")
        except Gone:
            close_all(pieces)
            raise Refused(EFAULT, f"{self.mm.fate()}, with the memory at {position:#x}") from None
        except OSError as error:
            close_all(pieces)
            if error.errno not in SHORT_OF_MEANS:
                raise
            raise Refused(ENOMEM, f"the mapping at {position:#x} cannot be held: {error.strerror}") from None
        except BaseException:
            close_all(pieces)
            raise
        if self._true_pins is not None and not brief:
            self._true_pins.hold(self.mm, pieces)
        return Pin(self, pieces)

    def _piece(self, vma: Vma, address: int, length: int, writable: bool, brief: bool) -> Piece:
        """OSError: we are short of means (EMFILE, ENFILE, ENOMEM)."""
        if writable and not vma.writable:
            raise Refused(EFAULT, f"the mapping at {address:#x} is not writable")
        if not writable and not vma.readable:
            raise Refused(EFAULT, f"the mapping at {address:#x} is not readable")
        if not vma.inode:
            return InProcess(self.mm, self.trusted, vma, address, length)
        offset = address + vma.delta
        kind = self._files.kind(vma.dev, self._mounts)
        if kind == b"secretmem":
            raise Refused(EFAULT, f"secret memory is mapped at {address:#x}")
        if vma.shared and writable and kind not in _NEVER_WRITTEN_BACK:
            raise Refused(EFAULT, f"a file of {kind.decode()} is mapped shared at {address:#x}: it is written back")
        file, page_size = None, PAGE_SIZE
        if kind in LOCAL:
            to_write = writable and vma.shared
            file = self._files.mapped(vma.dev, vma.inode, to_write, lambda: self._open_mapped(vma, vma.shared and not brief))
        if file is None:
            self._refuse_device(vma, address)
            return InProcess(self.mm, self.trusted, vma, address, length)
        file.hold()
        try:
            if offset + length - PAGE_SIZE >= file.size:
                raise Refused(EFAULT, f"the mapping at {address:#x} reaches beyond the end of its file")
            page_size = file.page_size
            if vma.shared and not brief:
                window = file.window(offset, offset + length, writable)
                if window.writable or not writable:
                    return Mapped(file, window, offset, length)
                window.hold()
                window.drop()
        except OSError as error:
            if error.errno in SHORT_OF_MEANS:
                raise
        finally:
            file.drop()
        return InProcess(self.mm, self.trusted, vma, address, length, page_size)

    def _open_mapped(self, vma: Vma, search: bool) -> int:
        """An O_PATH descriptor of the mapped file; close it. Where we lack CAP_SYS_ADMIN, `search` among the process's descriptors."""
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
                pass  # a FUSE file that lets only others in
        raise FileNotFoundError(ENOENT, "no descriptor of the file that is mapped")

    def _mounts(self) -> bytes:
        try:
            return self.mm.thread_file("mountinfo")
        except OSError as error:
            if error.errno in SHORT_OF_MEANS:
                raise
            return b""

    def _refuse_device(self, vma: Vma, address: int) -> None:
        """A file we did not open may be a device: memory without pages, which the kernel does not pin (VM_IO, VM_PFNMAP)."""
        try:
            flags = vm_flags(self.mm.thread_file("smaps"), vma.start)
        except OSError as error:
            if error.errno in SHORT_OF_MEANS:
                raise
            raise Refused(EFAULT, f"{self.mm.fate()}, with the memory at {address:#x}") from None
        if not flags.isdisjoint(("io", "pf")):
            raise Refused(EFAULT, f"a device's memory is mapped at {address:#x}")


class Sources:
    """The sources that are known, each once. For the task that serves requests; not for worker threads."""

    def __init__(self, *, true_pins: bool = False, harmless_filters: int | None = None) -> None:
        """`true_pins`: pin by io_uring what can be. `harmless_filters`: as `seize`. mount.Unusable: the machine cannot."""
        self._mms = MmCache()
        self._files = FileCache()
        self.true_pins = TruePins(self._mms.of, harmless_filters) if true_pins else None

    def address_space(self, caller: Caller, readable: int = 0) -> Source:
        """The caller's memory. OSError: the process is gone, or may not be looked into (another user's, or not dumpable).

        `readable` is not needed any more.
        """
        mm = self._mms.of(caller)
        source: Source | None = mm.sources.get(caller.uid)
        if source is None:
            source = mm.sources[caller.uid] = Source(mm, caller.uid, self._files, self.true_pins)
        return source

    def file(self, caller: Caller, number: int, readable: int = 0) -> Source:
        """The open file behind the caller's descriptor `number`. `hold` it before anything else, and `drop` it when not needed.

        OSError(EBADF): no such descriptor, or one opened with O_PATH. Other OSErrors: as `address_space`, or it may not be fetched.
        """
        mm = self._mms.of(caller)
        return self._of_file(mm, caller, self._files.of(caller, number))

    def moved(self, caller: Caller, source: Source) -> Source:
        """The file of a source, which somebody holds, as the caller's; to be held. OSError: as `address_space`."""
        mm = self._mms.of(caller)
        assert source.held_file is not None
        return self._of_file(mm, caller, source.held_file)

    def _of_file(self, mm: Mm, caller: Caller, file: HeldFile) -> Source:
        source: Source | None = file.sources.get((mm, caller.uid))
        if source is None:
            source = file.sources[mm, caller.uid] = Source(mm, caller.uid, self._files, self.true_pins, file)
        return source

    def page_identity(self, caller: Caller, address: int, *, write: bool = False) -> tuple[Any, ...]:
        """Which page the caller has at `address` now, as `Pin.identity` says it.

        Refused(EFAULT): nothing is mapped there, or it cannot be read (`write`: written). OSError: as `address_space`.
        """
        mm = self._mms.of(caller)
        page = address - address % PAGE_SIZE
        try:
            vmas = mm.maps.covering(page, page + PAGE_SIZE)
        except Gone:
            raise Refused(EFAULT, mm.fate()) from None
        if not vmas or not (vmas[0].writable if write else vmas[0].readable):
            raise Refused(EFAULT, f"address {address:#x} cannot be {'written' if write else 'read'}")
        # What is truly pinned of a private mapping is no page of the file any more, for its process neither.
        if vmas[0].inode and (vmas[0].shared or (self.true_pins is not None and vmas[0].writable and mm.of_file(page))):
            return "file", vmas[0].dev, vmas[0].inode, page + vmas[0].delta
        return "private", mm, page

    def close(self) -> None:
        """Forget who called; what is held stays until it is dropped."""
        self._mms.close()


def _pin_file(file: HeldFile, start: int, length: int, writable: bool) -> Mapped:
    if not file.in_memory:
        raise Refused(EINVAL, "only files of tmpfs (memfd) and hugetlbfs can be pinned")
    size = file.size
    if start + length > size:
        raise Refused(EINVAL, f"bytes {start:#x}+{length:#x} reach beyond the file's end at {size:#x}")
    try:
        window = file.window(start, start + length, writable)
    except OSError as error:
        if error.errno in SHORT_OF_MEANS:
            raise Refused(ENOMEM, f"the file cannot be mapped: {error.strerror}") from None
        return Mapped(file, None, start, length)
    return Mapped(file, window, start, length)
