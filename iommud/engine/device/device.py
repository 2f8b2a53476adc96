"""Devices: a model behind an IOMMU, bound to a context, and attached to an IO address space.

`bind` gives a Model a Device. By it the model attaches, replaces, detaches and unbinds, as the
kernel's drivers do with include/linux/iommufd.h, and does its DMA. The Device is an object with an
ID that clients see, but only its model can make it go. docs/devices.md shows how to write one.

Ref: v7.3 device.c
"""

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from errno import EINVAL, ENOENT
from typing import Final, TypeVar

from ...errors import IoctlError
from ..mapping.io_pagetable import PROT_READ, PROT_WRITE
from ..mapping.ioas import Ioas
from ..mapping.objects import Object
from ..memory.origin import Mapped
from . import noiommu
from .context import Context
from .fault import PageFault
from .group import Group, Member
from .hwpt import NO_PASID, Hwpt, HwptPaging
from .iommu import Iommu
from .model import Model
from .paging import alloc_paging
from .reporter import FaultReporter

T = TypeVar("T")
MOST_MOVES: Final = 1024


# One DMA of many: to which IOVA, from which, and how many bytes (1 or more). If there are bytes at
# the end, it is from these, and from which byte of them on.
Move = tuple[int, int, int, bytes | None]


class Device(Object):
    """A device bound to a context. Users: its model, and its attachments."""

    kind = "device"
    __slots__ = ("_faults", "context", "group", "iommu", "model", "port", "vdevice")

    def __init__(self, context: Context, model: Model, iommu: Iommu, group: Group) -> None:
        super().__init__()
        self._faults = FaultReporter()
        self.context = context
        self.model = model
        self.iommu = iommu
        self.port = iommu.port(model)
        self.group = group
        self.vdevice: Object | None = None  # as a guest knows it

    def __str__(self) -> str:
        return f"device {self.id} ({self.model.name})"

    def destroy(self) -> None:
        self.group.bound.remove(self)
        if not self.group.bound:
            del self.context.groups[self.group.key]
            self.context.host.release(self.group.key)

    def attach(self, pt_id: int, pasid: int = NO_PASID) -> Generator[None, None, int]:
        """Connect to an IOAS (an automatic page table is found or made) or to a HWPT; returns the
        HWPT's ID.

        ENOENT: no such object. EINVAL: it is neither, or incompatible. Others: Group.attach,
        IoPagetable.add_domain.
        Ref: v7.3 device.c iommufd_device_attach
        """
        hwpt, _ = yield from self._change(pt_id, pasid, replace=False)
        self.users.append(hwpt)
        self._announce(pasid, None, hwpt)
        return hwpt.id

    def replace(self, pt_id: int, pasid: int = NO_PASID) -> Generator[None, None, int]:
        """As `attach`, in place of what the device is attached to. On failure nothing has changed.

        Ref: v7.3 device.c iommufd_device_replace
        """
        hwpt, old = yield from self._change(pt_id, pasid, replace=True)
        if old is not None:
            for member in self.group.attachments[pasid].devices:
                member.users[member.users.index(old)] = hwpt
                self._announce(pasid, old, hwpt, member)
            self._put(old)
        return hwpt.id

    def detach(self, pasid: int = NO_PASID) -> None:
        """Undo `attach`. No effect if it is not attached. Ref: v7.3 device.c
        iommufd_device_detach
        """
        hwpt = self.group.detach(self, pasid)
        if hwpt is not None:
            self.users.remove(hwpt)
            self._announce(pasid, hwpt, None)
            self._put(hwpt)

    def detach_all(self) -> None:
        """Detach it wherever it is attached, because its model goes."""
        for pasid in list(self.group.attachments):
            self.detach(pasid)

    def dma_read(self, iova: int, buffer: memoryview, pasid: int = NO_PASID) -> None:
        """Read memory as the device: fill `buffer` (bytes) from `iova` on, through the device's
        page table. Of a device without an IOMMU `iova` is a physical address, and where it is
        attached does not matter.

        ENOENT: it is not attached, or its page table shows nothing there; or no page table without
        an IOMMU does. EPERM: mapped without READABLE. EFAULT: the memory was lost. What was copied
        before the error stays. All is done when this returns.
        """
        self._dma(iova, buffer, pasid, write=False)

    def dma_write(self, iova: int, data: memoryview, pasid: int = NO_PASID) -> None:
        """Write memory as the device; as `dma_read`. EPERM: mapped without WRITEABLE."""
        self._dma(iova, data, pasid, write=True)

    def dma_moves(self, moves: Sequence[Move], begin: int = 0) -> int:
        """Carry out moves from index `begin` on, in order, as far as that can be done at once: a
        quick way for many. Returns how many are done.

        A move that cannot be is not begun, or was done in part, and none after it is begun. Nothing
        is said about why: `dma_read` and `dma_write` do it, or raise.
        """
        attached = self.group.attached_at(self, NO_PASID) if self.iommu.walks else None
        direct = attached.hwpt.direct if attached is not None else None
        if direct is None:
            return 0
        find = direct.find
        destinations: list[int] = []
        sources: list[int] = []
        ends: list[int] = []
        total = 0
        memory = held = None
        base = 0
        for to, of, length, data in moves[begin : begin + MOST_MOVES]:
            target = find(to, length, PROT_WRITE)
            if target is None:
                break
            memory = target.memory
            address = to + target.delta
            if data is None:
                source = find(of, length, PROT_READ)
                if source is None:
                    break
                start = of + source.delta
                if source.memory is memory:
                    if -length < start - address < length:
                        break  # they overlap: all is read before any of it is written
                elif source.memory.file == memory.file:
                    break  # perhaps they do
            else:
                if data is not held:
                    held, base = data, memory.locate(data)
                start = base + of
            destinations += (address, length)
            sources += (start, length)
            total += length
            ends.append(total)
        if memory is None or not ends:
            return 0
        copied = memory.copy(destinations, sources)
        done = len(ends) if copied == total else bisect_right(ends, copied)
        observer = self.context.host.observer
        if observer is not None:
            for to, of, length, data in moves[begin : begin + done]:
                if data is None:
                    observer.dma(self, of, length, False, None)
                observer.dma(self, to, length, True, None)
        return done

    def dma_file(self, fd: int, offset: int, parts: Sequence[tuple[int, int]], *, write: bool, flags: int = 0) -> int:
        """Carry bytes from a file, from byte `offset` on, to memory (`write`), or from memory to
        the file, in one copy and at once. `parts`: pairs of IOVA and bytes (1 or more); `flags`:
        RWF_* of preadv2(2). Returns how many bytes were carried.

        Nothing is said about why it is not all: then `dma_read` and `dma_write` do it, or raise.
        """
        memory, places = self._places(parts, PROT_WRITE if write else PROT_READ)
        if memory is None or len(places) != 2 * len(parts):
            return 0
        carried = (memory.read_file if write else memory.write_file)(fd, offset, places, flags)
        self._observe(parts, carried, write)
        return carried

    def dma_gather(self, parts: Sequence[tuple[int, int]]) -> bytes:
        """Read many stretches, one behind the other, at once: pairs of IOVA and bytes (1 or more),
        as `dma_moves`. Returns what was read before one could not be.
        """
        memory, places = self._places(parts[:MOST_MOVES], PROT_READ)
        if memory is None:
            return b""
        data = bytearray(sum(places[1::2]))
        copied = memory.gather(places, memoryview(data))
        self._observe(parts, copied, False)
        return bytes(data[:copied])

    def _places(self, parts: Sequence[tuple[int, int]], prot: int) -> tuple[Mapped | None, list[int]]:
        """Where the parts lie (address, bytes, address, ...), up to one that must be reached
        another way. By which memory any of them is reached makes no difference.
        """
        attached = self.group.attached_at(self, NO_PASID) if self.iommu.walks else None
        direct = attached.hwpt.direct if attached is not None else None
        memory: Mapped | None = None
        places: list[int] = []
        if direct is None or len(parts) > MOST_MOVES:
            return None, places
        find = direct.find
        for iova, length in parts:
            found = find(iova, length, prot)
            if found is None:
                break
            memory = found.memory
            places += (iova + found.delta, length)
        return memory, places

    def _observe(self, parts: Sequence[tuple[int, int]], done: int, write: bool) -> None:
        """Tell of those that were done whole: `done` bytes in all."""
        observer = self.context.host.observer
        if observer is not None:
            for iova, length in parts:
                done -= length
                if done < 0:
                    return
                observer.dma(self, iova, length, write, None)

    def report_fault(self, fault: PageFault, respond: Callable[[int], None]) -> None:
        """Tell whoever handles the faults of the page table that the device is attached to, and
        wait for the response.

        `respond` is called exactly once for a whole group, together with its last fault: now or
        later, with fault.SUCCESS (try again) or INVALID (give up). EINVAL: nobody handles faults;
        the response was INVALID.
        """
        queue = self._faults.report(self, fault, respond)
        if queue is not None and self.context.host.observer is not None:
            self.context.host.observer.queued(queue, fault)

    def _dma(self, iova: int, data: memoryview, pasid: int, *, write: bool) -> None:
        observer = self.context.host.observer
        try:
            if not self.iommu.walks:
                noiommu.dma(self.context.host, iova, data, write=write)
            else:
                found = self.group.attached_at(self, pasid)
                if found is None:
                    raise IoctlError(ENOENT, f"{self} is not attached: its DMA is blocked")
                found.hwpt.dma(iova, data, write=write)
        except IoctlError as refusal:
            if observer is not None:
                observer.dma(self, iova, len(data), write, refusal)
            raise
        if observer is not None:
            observer.dma(self, iova, len(data), write, None)

    def _announce(self, pasid: int, old: Hwpt | None, new: Hwpt | None, member: Member | None = None) -> None:
        if self.context.host.observer is not None:
            self.context.host.observer.attached(member or self, pasid, old, new)

    def unbind(self) -> None:
        """Undo `bind`; the device must be detached. Its vDEVICE goes with it. Ref: v7.3 device.c
        iommufd_device_unbind
        """
        self.users.remove(self.model)
        if self.vdevice is not None:
            self.context.objects.entomb(self.vdevice)
        self.context.objects.remove_by_owner(self)

    def _change(self, pt_id: int, pasid: int, *, replace: bool) -> Generator[None, None, tuple[Hwpt, Hwpt | None]]:
        found = self.context.objects.get(pt_id, Object)
        if isinstance(found, Hwpt):
            return found, self._connect(found, pasid, replace)
        if not isinstance(found, Ioas):
            raise IoctlError(EINVAL, f"{found} is neither an IOAS nor a HWPT")
        return (yield from self._change_auto(found, pasid, replace))

    def _change_auto(self, ioas: Ioas, pasid: int, replace: bool) -> Generator[None, None, tuple[Hwpt, Hwpt | None]]:
        # Ref: v7.3 device.c iommufd_device_auto_get_domain
        for hwpt in ioas.hwpts:
            if isinstance(hwpt, HwptPaging) and hwpt.auto:
                try:
                    return hwpt, self._connect(hwpt, pasid, replace)
                except IoctlError as refusal:
                    if refusal.errno != EINVAL:
                        raise
        objects = self.context.objects
        hwpt = yield from alloc_paging(objects, ioas, self, attach_to=None if replace else pasid)
        old = None
        if replace:
            try:
                old = self._connect(hwpt, pasid, replace)
            except BaseException:
                objects.abort_and_destroy(hwpt)
                raise
        hwpt.auto = True
        objects.publish(hwpt)
        return hwpt, old

    def _connect(self, hwpt: Hwpt, pasid: int, replace: bool) -> Hwpt | None:
        if replace:
            return self.group.replace(self, hwpt, pasid)
        self.group.attach(self, hwpt, pasid)
        return None

    def _put(self, hwpt: Hwpt) -> None:
        """`hwpt` lost a user. If it is automatic, it goes with its last user. Ref: v7.3
        iommufd_private.h iommufd_hw_pagetable_put
        """
        if hwpt.auto and not hwpt.users and not hwpt.shortterm_users:
            self.context.objects.remove_by_owner(hwpt)


def bind(context: Context, model: Model, iommu: Iommu) -> Device:
    """Take a device that stands behind `iommu` into a context. Its DMA is blocked until it is
    attached.

    EINVAL: it is not cache coherent. EPERM: another context owns its group. A device without an
    IOMMU is a group of its own, whatever it says, and need not be coherent. Ref: v7.3 device.c
    iommufd_device_bind
    """
    key = model.group if iommu.walks else object()
    device = Device(context, model, iommu, context.groups.get(key) or Group(key))
    context.objects.reserve(device)
    try:
        if iommu.walks and not model.cache_coherent:
            raise IoctlError(EINVAL, f"{model.name} is not cache coherent")
        context.host.claim(key, context)
    except IoctlError:
        context.objects.abort(device)
        raise
    context.groups[key] = device.group
    device.group.bound.append(device)
    device.users.append(model)
    context.objects.publish(device)
    return device


def at_once(steps: Generator[None, None, T]) -> T:
    """Do all of an `attach` or `replace` now, without its pauses. For tests, and where nobody
    waits.
    """
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
