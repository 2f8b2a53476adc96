"""Accesses: how a driver reads and writes an IO address space with the CPU, as mediated devices do.

A driver either copies (`read`, `write`) or pins pages and works on them. Who pins must let go when it is asked: `AccessUser.unmap` is
called before an unmap of pinned pages returns. An access stands on one IOAS at a time.

Ref: v7.3 device.c iommufd_access_*
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL, ENOENT, EOVERFLOW, EPERM
from typing import TYPE_CHECKING, Protocol

from ..errors import IoctlError
from .area import Area, AreaHold
from .io_pagetable import PROT_READ, PROT_WRITE, IoPagetable
from .ioas import Ioas
from .objects import Object
from .pages import PAGE_SIZE, Pages
from .span import U64_MAX
from .transfer import Transfer

if TYPE_CHECKING:
    from .context import Context


class AccessUser(Protocol):
    """The driver behind an access."""

    @property
    def name(self) -> str: ...

    @property
    def pins(self) -> bool:
        """Whether it will pin pages; then the IOAS's alignment is at least a page."""

    async def unmap(self, iova: int, length: int) -> None:
        """Unpin everything that touches iova..iova+length-1 (bytes) before returning."""


class Access(Object):
    """Users: its driver. It cannot be destroyed by a client. `internal`: it is iommud's own, does not keep the context, and what it pins
    cannot be unmapped (EBUSY) in place of being asked for."""

    kind = "access"
    __slots__ = ("_next", "context", "internal", "ioas", "ioas_unpin", "iova_alignment", "user")

    def __init__(self, context: "Context", user: AccessUser, *, internal: bool = False) -> None:
        super().__init__()
        self.context = context
        self.user = user
        self.internal = internal
        self.iova_alignment = PAGE_SIZE if user.pins else 1
        self.ioas: Ioas | None = None
        self.ioas_unpin: Ioas | None = None  # as `ioas`, but kept until its pages have been unpinned
        self._next: Ioas | None = None  # what it moves to, while its driver unpins

    def __str__(self) -> str:
        return f"access {self.id} ({self.user.name})"

    # --- where it stands ---

    async def attach(self, ioas_id: int) -> None:
        """EINVAL: it stands on an IOAS already. ENOENT: no such IOAS. EADDRINUSE: an area is off the access's alignment."""
        if self.ioas is not None:
            raise IoctlError(EINVAL, f"{self} stands on {self.ioas} already")
        await self._change(self.context.ioas(ioas_id))

    async def replace(self, ioas_id: int) -> None:
        """Stand on another IOAS; what is pinned in the old one is let go. ENOENT: it stands on none, or there is no such IOAS."""
        if self.ioas is None:
            raise IoctlError(ENOENT, f"{self} stands on no IOAS")
        await self._change(self.context.ioas(ioas_id))

    def stand_on(self, ioas: Ioas) -> None:
        """As `attach`, for one that is new: nobody has to be asked. Ref: v7.3 device.c iommufd_access_attach_internal"""
        assert self.ioas_unpin is None
        ioas.iopt.add_access(self)
        ioas.users.append(self)
        self.ioas = self.ioas_unpin = ioas

    async def detach(self) -> None:
        await self._change(None)

    async def _change(self, new: Ioas | None) -> None:
        # Ref: v7.3 device.c iommufd_access_change_ioas
        current = self.ioas
        if current is not self.ioas_unpin:
            raise IoctlError(EBUSY, f"{self} is being moved by another request")
        if current is new:
            return
        if new is not None:
            new.iopt.add_access(self)
            new.users.append(self)
        self.ioas = None  # no new pins; what is pinned can still be unpinned
        if current is not None:
            self._next = new
            try:
                await self.user.unmap(0, U64_MAX)
            except BaseException:
                if self._next is not None:
                    self._leave(self._next)
                self.ioas, self._next = self.ioas_unpin, None
                raise
            if self.ioas_unpin is None:
                return  # released meanwhile
            self._leave(current)
        self.ioas, self.ioas_unpin, self._next = new, new, None

    def _leave(self, ioas: Ioas) -> None:
        ioas.iopt.remove_access(self)
        ioas.users.remove(self)

    def release(self) -> None:
        """The driver has unpinned everything and is done with it. Ref: v7.3 device.c iommufd_access_destroy"""
        self.users.remove(self.user)
        self.context.objects.remove_by_owner(self)
        if not self.internal:
            self.context.release()

    def destroy(self) -> None:
        for ioas in (self.ioas_unpin, self._next):
            if ioas is not None:
                self._leave(ioas)
        self.ioas = self.ioas_unpin = self._next = None

    # --- pins ---

    def pin_pages(self, iova: int, length: int, *, write: bool) -> list[tuple[Pages, int]]:
        """Hold the pages under iova..iova+length-1; returns each page as its Pages and index. Undone by `unpin_pages` of the same range.

        EINVAL: its driver does not pin, length 0, not page aligned in its memory, or being unmapped. EOVERFLOW: beyond 2^64 - 1.
        ENOENT: not mapped, or not attached. EPERM: not mapped for that. EFAULT, ENOMEM: as Pages.cover. On failure nothing is held.
        """
        if not self.user.pins:
            raise IoctlError(EINVAL, f"{self} does not pin, so its IOAS is not aligned to pages")
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = _last(iova, length)
        if self.ioas is None:
            raise IoctlError(ENOENT, f"{self} stands on no IOAS")
        iopt = self.ioas.iopt
        pinned: list[tuple[Area, int, int]] = []
        out: list[tuple[Pages, int]] = []
        try:
            for area, start, end in iopt.contiguous(iova, last):
                first_index, last_index = _indexes(area, start, end)
                if area.hold is not None and area.hold.prevent_access:
                    raise IoctlError(EINVAL, f"{area} is being unmapped")
                if (area.start_byte + start - area.iova) % PAGE_SIZE or (
                    area.last < last and (area.start_byte + area.length) % PAGE_SIZE
                ):
                    raise IoctlError(EINVAL, f"{area} is not page aligned in its memory, so its pages cannot be handed out")
                self._check_prot(area, write)
                pages = area.pages
                assert pages is not None
                if write and not pages.writable:
                    raise IoctlError(EPERM, f"the pages of {area} were mapped without IOMMU_IOAS_MAP_WRITEABLE")
                pages.check_access()
                pages.cover(iopt.host, first_index, last_index)
                if area.hold is None:
                    area.hold = AreaHold()
                area.hold.pins += 1
                area.hold.locks += self.internal
                pinned.append((area, first_index, last_index))
                out.extend((pages, index) for index in range(first_index, last_index + 1))
        except BaseException:
            for area, first_index, last_index in pinned:
                self._unpin(iopt, area, first_index, last_index)
            raise
        return out

    def unpin_pages(self, iova: int, length: int) -> None:
        """Undo one `pin_pages` of exactly this range."""
        if self.ioas_unpin is None:
            raise AssertionError(f"{self} unpins, but has nothing pinned")
        iopt = self.ioas_unpin.iopt
        for area, start, end in iopt.contiguous(iova, _last(iova, length)):
            self._unpin(iopt, area, *_indexes(area, start, end))

    def _unpin(self, iopt: IoPagetable, area: Area, first_index: int, last_index: int) -> None:
        assert area.pages is not None
        assert area.hold is not None
        area.pages.uncover(iopt.host, first_index, last_index)
        area.hold.locks -= self.internal
        area.hold.pins -= 1
        if not area.hold.pins and not area.hold.prevent_access:
            area.hold = None

    # --- copies ---

    def read_into(self, iova: int, buffer: memoryview, near: Hashable = None) -> None:
        """Copy from iova on into `buffer`. `near` and errors as `write_from`."""
        with self.transfer(iova, len(buffer), near, write=False) as transfer:
            transfer.copy(buffer)

    def write_from(self, iova: int, data: memoryview, near: Hashable = None) -> None:
        """Copy `data` to iova on.

        `near`: the address space of the process that is running, if any; what was mapped from it is reached as the process itself would
        now, pinned or not, as in the kernel. EINVAL: no data, or being unmapped. EOVERFLOW, ENOENT, EPERM, EFAULT as `pin_pages`; what
        was copied before the error stays. Ref: v7.3 device.c iommufd_access_rw, pages.c iopt_pages_rw_access
        """
        with self.transfer(iova, len(data), near, write=True) as transfer:
            transfer.copy(data)

    def transfer(self, iova: int, length: int, near: Hashable, *, write: bool) -> Transfer:
        """`write_from` or `read_into` in two halves, for a large copy: enter and leave what this gives where requests run, and have it
        `copy` in a thread. Nobody may unmap from the IOAS meanwhile.

        EINVAL: length 0. EOVERFLOW: beyond 2^64 - 1. ENOENT: not attached. All else is for `copy` to say.
        """
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = _last(iova, length)
        if self.ioas is None:
            raise IoctlError(ENOENT, f"{self} stands on no IOAS")
        transfer = Transfer(write=write)
        try:
            for area, start, end in self.ioas.iopt.contiguous(iova, last):
                if area.hold is not None and area.hold.prevent_access:
                    raise IoctlError(EINVAL, f"{area} is being unmapped")
                self._check_prot(area, write)
                assert area.pages is not None
                area.pages.transfer(transfer, area.start_byte + start - area.iova, start - iova, end - start + 1, near)
        except IoctlError as refusal:
            transfer.refusal = refusal.errno, refusal.why
        return transfer

    @staticmethod
    def _check_prot(area: Area, write: bool) -> None:
        if not area.prot & (PROT_WRITE if write else PROT_READ):
            raise IoctlError(EPERM, f"{area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}")


def create(context: "Context", user: AccessUser, *, internal: bool = False) -> Access:
    """A new access for a driver; it stands on no IOAS yet. Ref: v7.3 device.c iommufd_access_create, iommufd_access_create_internal"""
    access = Access(context, user, internal=internal)
    context.objects.reserve(access)
    if not internal:
        context.hold()
    access.users.append(user)
    context.objects.publish(access)
    return access


def _last(iova: int, length: int) -> int:
    last = iova + length - 1
    if last > U64_MAX:
        raise IoctlError(EOVERFLOW, f"IOVA {iova:#x} + length {length:#x} is beyond 2^64 - 1")
    return last


def _indexes(area: Area, start: int, end: int) -> tuple[int, int]:
    return (area.start_byte + start - area.iova) // PAGE_SIZE, (area.start_byte + end - area.iova) // PAGE_SIZE
