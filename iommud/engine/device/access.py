"""Accesses: how a driver reads and writes an IO address space by the CPU, as mediated devices do.

A driver either copies (`read`, `write`), or pins pages and works on them. A driver that pins must
let go when it is asked: `AccessUser.unmap` is called before an unmap of pinned pages returns. An
access stands on one IOAS at a time.

Ref: v7.3 device.c iommufd_access_*
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL, ENOENT, EPERM
from typing import Protocol

from ...errors import IoctlError
from ..mapping.io_pagetable import PROT_READ, PROT_WRITE, IoPagetable
from ..mapping.ioas import Ioas
from ..mapping.objects import Object
from ..memory.area import Area, AreaAccesses
from ..memory.origin import PAGE_SIZE
from ..memory.pages import Pages
from ..memory.span import U64_MAX, last_of
from ..memory.transfer import Transfer
from .context import Context


class AccessUser(Protocol):
    """The driver behind an access."""

    @property
    def name(self) -> str: ...

    @property
    def pins(self) -> bool:
        """Whether it will pin pages. If so, the IOAS's alignment is at least a page."""

    async def unmap(self, iova: int, length: int) -> None:
        """Unpin everything that touches iova..iova+length-1 (bytes) before returning."""


class Access(Object):
    """Users: its driver. A client cannot destroy it. `internal`: it is iommud's own. Then it does
    not keep the context, and nobody asks it to unpin: what it pins cannot be unmapped (EBUSY).
    """

    kind = "access"
    __slots__ = ("_next", "context", "internal", "ioas", "ioas_unpin", "iova_alignment", "user")

    def __init__(self, context: Context, user: AccessUser, *, internal: bool = False) -> None:
        super().__init__()
        self.context = context
        self.user = user
        self.internal = internal
        self.iova_alignment = PAGE_SIZE if user.pins else 1
        self.ioas: Ioas | None = None
        # as `ioas`, but kept until its pages have been unpinned
        self.ioas_unpin: Ioas | None = None
        self._next: Ioas | None = None  # what it moves to, while its driver unpins

    def __str__(self) -> str:
        return f"access {self.id} ({self.user.name})"

    # --- where it stands ---

    async def attach(self, ioas_id: int) -> None:
        """EINVAL: it stands on an IOAS already. ENOENT: no such IOAS. EADDRINUSE: an area is off
        the access's alignment.
        """
        if self.ioas is not None:
            raise IoctlError(EINVAL, f"{self} stands on {self.ioas} already")
        await self._change(self.context.ioas(ioas_id))

    async def replace(self, ioas_id: int) -> None:
        """Stand on another IOAS; whatever is pinned in the old one is let go. ENOENT: it stands on
        none, or there is no such IOAS.
        """
        if self.ioas is None:
            raise IoctlError(ENOENT, f"{self} stands on no IOAS")
        await self._change(self.context.ioas(ioas_id))

    def stand_on(self, ioas: Ioas) -> None:
        """As `attach`, for a new access, where nobody has to be asked. Ref: v7.3 device.c
        iommufd_access_attach_internal
        """
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

    async def ask_to_unpin(self, iova: int, length: int, request: object) -> None:
        """Have its driver unpin everything that touches iova..iova+length-1 (bytes), on behalf of a
        `request` that wants to unmap it.
        """
        with self.context.objects.using(self, request):
            await self.user.unmap(iova, length)

    def release(self) -> None:
        """The driver has unpinned everything and is done with it. Ref: v7.3 device.c
        iommufd_access_destroy
        """
        self.users.remove(self.user)
        self.context.objects.remove_by_owner(self)
        if not self.internal:
            self.context.put()

    def destroy(self) -> None:
        for ioas in (self.ioas_unpin, self._next):
            if ioas is not None:
                self._leave(ioas)
        self.ioas = self.ioas_unpin = self._next = None

    # --- pins ---

    def pin_pages(self, iova: int, length: int, *, write: bool) -> list[tuple[Pages, int]]:
        """Pin the pages under iova..iova+length-1. Returns each page as its Pages and index.
        `unpin_pages` of the same range undoes it.

        EINVAL: its driver does not pin, length is 0, the range is not page aligned in its memory,
        or it is being unmapped. EOVERFLOW: beyond 2^64 - 1. ENOENT: not mapped, or not attached.
        EPERM: not mapped for that. EFAULT, ENOMEM: as Pages.pin. On failure nothing is pinned.
        """
        if not self.user.pins:
            raise IoctlError(EINVAL, f"{self} does not pin, so its IOAS is not aligned to pages")
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = last_of(iova, length)
        if self.ioas is None:
            raise IoctlError(ENOENT, f"{self} stands on no IOAS")
        iopt = self.ioas.iopt
        pinned: list[tuple[Area, int, int]] = []
        out: list[tuple[Pages, int]] = []
        try:
            for area, start, end in iopt.contiguous(iova, last):
                first_index, last_index = _indexes(area, start, end)
                if area.accesses is not None and area.accesses.prevent_access:
                    raise IoctlError(EINVAL, f"{area} is being unmapped")
                if (area.start_byte + start - area.iova) % PAGE_SIZE or (
                    area.last < last and (area.start_byte + area.length) % PAGE_SIZE
                ):
                    raise IoctlError(
                        EINVAL, f"{area} is not page aligned in its memory, so its pages cannot be handed out"
                    )
                self._check_prot(area, write)
                pages = area.pages
                assert pages is not None
                if write and not pages.writable:
                    raise IoctlError(EPERM, f"the pages of {area} were mapped without IOMMU_IOAS_MAP_WRITEABLE")
                pages.check_access()
                pages.pin(iopt.host, first_index, last_index)
                if area.accesses is None:
                    area.accesses = AreaAccesses()
                area.accesses.num_accesses += 1
                area.accesses.num_locks += self.internal
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
        for area, start, end in iopt.contiguous(iova, last_of(iova, length)):
            self._unpin(iopt, area, *_indexes(area, start, end))

    def _unpin(self, iopt: IoPagetable, area: Area, first_index: int, last_index: int) -> None:
        assert area.pages is not None
        assert area.accesses is not None
        area.pages.unpin(iopt.host, first_index, last_index)
        area.accesses.num_locks -= self.internal
        area.accesses.num_accesses -= 1
        if not area.accesses.num_accesses and not area.accesses.prevent_access:
            area.accesses = None

    # --- copies ---

    def read_into(self, iova: int, buffer: memoryview, near: Hashable = None) -> None:
        """Copy from `iova` on into `buffer`. `near` and errors: as `write_from`."""
        self._copy(iova, buffer, near, write=False)

    def write_from(self, iova: int, data: memoryview, near: Hashable = None) -> None:
        """Copy `data` to `iova` on.

        `near`: the address space of the process that is running, if any. What was mapped from it is
        reached as the process itself would reach it now, pinned or not, as in the kernel. EINVAL:
        no data, or being unmapped. EOVERFLOW, ENOENT, EPERM, EFAULT: as `pin_pages`; what was
        copied before the error stays. Ref: v7.3 device.c iommufd_access_rw, pages.c
        iopt_pages_rw_access
        """
        self._copy(iova, data, near, write=True)

    def _copy(self, iova: int, data: memoryview, near: Hashable, *, write: bool) -> None:
        with self.transfer(iova, len(data), near, write=write) as transfer:
            transfer.copy(data)

    def transfer(self, iova: int, length: int, near: Hashable, *, write: bool) -> Transfer:
        """`write_from` or `read_into` in two halves, for a large copy. Enter and leave the result
        where requests run, and let a thread do its `copy`. Nobody may unmap from the IOAS
        meanwhile.

        EINVAL: length 0. EOVERFLOW: beyond 2^64 - 1. ENOENT: not attached. `copy` raises all else.
        """
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = last_of(iova, length)
        if self.ioas is None:
            raise IoctlError(ENOENT, f"{self} stands on no IOAS")
        transfer = Transfer(write=write)
        try:
            for area, start, end in self.ioas.iopt.contiguous(iova, last):
                if area.accesses is not None and area.accesses.prevent_access:
                    raise IoctlError(EINVAL, f"{area} is being unmapped")
                self._check_prot(area, write)
                assert area.pages is not None
                area.pages.transfer(transfer, area.start_byte + start - area.iova, start - iova, end - start + 1, near)
        except IoctlError as refusal:
            transfer.refusal = refusal.errno, refusal.why
        observer = self.ioas.iopt.host.observer
        if observer is not None:
            observer.dma(
                self, iova, length, write, IoctlError(*transfer.refusal) if transfer.refusal is not None else None
            )
        return transfer

    @staticmethod
    def _check_prot(area: Area, write: bool) -> None:
        if not area.prot & (PROT_WRITE if write else PROT_READ):
            raise IoctlError(EPERM, f"{area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}")


def create(context: Context, user: AccessUser, *, internal: bool = False) -> Access:
    """A new access for a driver; it stands on no IOAS yet. Ref: v7.3 device.c
    iommufd_access_create, iommufd_access_create_internal
    """
    access = Access(context, user, internal=internal)
    context.objects.reserve(access)
    if not internal:
        context.get()
    access.users.append(user)
    context.objects.publish(access)
    return access


def _indexes(area: Area, start: int, end: int) -> tuple[int, int]:
    return (area.start_byte + start - area.iova) // PAGE_SIZE, (area.start_byte + end - area.iova) // PAGE_SIZE
