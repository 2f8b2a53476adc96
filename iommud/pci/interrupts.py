"""A function's interrupts as VFIO_DEVICE_SET_IRQS drives them: INTx, MSI, MSI-X, and the two that
tell of errors and of requests.

One of INTx, MSI and MSI-X is in use at a time, or none. A vector of MSI or MSI-X has a trigger,
which each of its interrupts signals. INTx is a level. Each interrupt masks it, and it stays masked
until the client unmasks it. If the function still wants attention then, the client is signalled
again at once. The INTx disable bit of configuration space (config.py) masks it too.

A trigger is an eventfd of the client's, seen from here as something that can be signalled. Triggers
are got one by one, in the order in which the kernel gets them, so that a bad descriptor leaves
behind what the kernel leaves.

Ref: v7.3 drivers/vfio/pci/vfio_pci_intrs.c; vfio_main.c vfio_set_irqs_validate_and_prepare;
drivers/vfio/virqfd.c
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EBUSY, EINVAL, ENODEV, ENOTTY
from typing import Final

from ..errors import IoctlError
from . import vfio_names as v
from .host import Host
from .triggers import Descriptors, Ear, Trigger

_U32_MAX: Final = (1 << 32) - 1
_WIDTHS: Final = {v.VFIO_IRQ_SET_DATA_NONE: 0, v.VFIO_IRQ_SET_DATA_BOOL: 1, v.VFIO_IRQ_SET_DATA_EVENTFD: 4}
_KINDS: Final = ("INTx", "MSI", "MSI-X", "ERR", "REQ")


@dataclass(frozen=True, slots=True)
class IrqSet:
    """struct vfio_irq_set without its data."""

    argsz: int
    flags: int
    index: int
    start: int
    count: int


@dataclass(slots=True)
class _Line:
    """INTx while it is in use."""

    trigger: Trigger | None
    masked: bool
    unmask: Ear | None = None


class Interrupts:
    """From open to close. `pin`: whether INTx is shown; `msi_limit`: the logarithm of how many MSI
    vectors were last in use, if ever.
    """

    def __init__(self, host: Host, pin: Callable[[], int], msi_limit: int = 0) -> None:
        self.msi_limit = msi_limit
        self._host: Final = host
        self._pin: Final = pin
        self._index: int | None = None  # which of INTx, MSI and MSI-X is in use
        self._line: _Line | None = None
        self._vectors: dict[int, Trigger] = {}
        self._single: dict[int, Trigger | None] = {v.VFIO_PCI_ERR_IRQ_INDEX: None, v.VFIO_PCI_REQ_IRQ_INDEX: None}
        self._disabled = False  # by the INTx disable bit

    # --- what a client asks ---

    def count(self, index: int) -> int:
        """How many vectors an index has. Ref: v7.3 vfio_pci_core.c vfio_pci_get_irq_count"""
        if index == v.VFIO_PCI_INTX_IRQ_INDEX:
            return 1 if self._pin() else 0
        if index in (v.VFIO_PCI_MSI_IRQ_INDEX, v.VFIO_PCI_MSIX_IRQ_INDEX):
            return self._host.vectors(index == v.VFIO_PCI_MSIX_IRQ_INDEX)
        return 1 if index in self._single else 0

    def info(self, index: int) -> tuple[int, int]:
        """(flags, count). EINVAL: there is no such index. Ref: v7.3 vfio_pci_core.c
        vfio_pci_ioctl_get_irq_info
        """
        if index >= v.VFIO_PCI_NUM_IRQS:
            raise IoctlError(EINVAL, f"there is no interrupt index {index}: the last is {v.VFIO_PCI_NUM_IRQS - 1}")
        flags = v.VFIO_IRQ_INFO_EVENTFD
        if index == v.VFIO_PCI_INTX_IRQ_INDEX:
            flags |= v.VFIO_IRQ_INFO_MASKABLE | v.VFIO_IRQ_INFO_AUTOMASKED
        elif index != v.VFIO_PCI_MSIX_IRQ_INDEX or not (self._host.dynamic_msix and self._host.function.messages.msix):
            flags |= v.VFIO_IRQ_INFO_NORESIZE
        return flags, self.count(index)

    def check(self, request: IrqSet) -> int:
        """How many bytes of data follow the struct. EINVAL: it makes no sense. Ref: v7.3
        vfio_main.c vfio_set_irqs_validate_and_prepare
        """
        known = v.VFIO_IRQ_SET_DATA_TYPE_MASK | v.VFIO_IRQ_SET_ACTION_TYPE_MASK
        if request.argsz < v.VFIO_IRQ_SET_SIZE:
            raise IoctlError(
                EINVAL, f"argsz {request.argsz} is less than the {v.VFIO_IRQ_SET_SIZE} bytes of struct vfio_irq_set"
            )
        if request.index >= v.VFIO_PCI_NUM_IRQS:
            raise IoctlError(
                EINVAL, f"there is no interrupt index {request.index}: the last is {v.VFIO_PCI_NUM_IRQS - 1}"
            )
        if request.count >= _U32_MAX - request.start or request.flags & ~known:
            raise IoctlError(
                EINVAL, f"count {request.count} is too large, or flags {request.flags:#x} has unknown bits"
            )
        count, kind = self.count(request.index), _KINDS[request.index]
        if request.start >= count or request.start + request.count > count:
            raise IoctlError(EINVAL, f"vectors {request.start}+{request.count} of {kind}, which has {count}")
        width = _WIDTHS.get(request.flags & v.VFIO_IRQ_SET_DATA_TYPE_MASK)
        if width is None:
            raise IoctlError(EINVAL, f"flags {request.flags:#x}: exactly one of DATA_NONE, DATA_BOOL and DATA_EVENTFD")
        if width and request.argsz - v.VFIO_IRQ_SET_SIZE < request.count * width:
            raise IoctlError(EINVAL, f"argsz {request.argsz} has no room for the data of {request.count} vectors")
        return request.count * width

    def set(self, request: IrqSet, data: bytes, descriptors: Descriptors) -> None:
        """VFIO_DEVICE_SET_IRQS; `data`: as many bytes as `check`, which comes first, returned.

        ENOTTY: an index that has no such action. EINVAL: another index is in use, or this one is
        not; no such vector. EBADF, EINVAL: a descriptor. ERANGE, ENOSPC: Host.allocate_vectors.
        EBUSY: somebody listens already. ENODEV: no INTx.
        Ref: v7.3 vfio_pci_intrs.c vfio_pci_set_irqs_ioctl
        """
        action = request.flags & v.VFIO_IRQ_SET_ACTION_TYPE_MASK
        if request.index == v.VFIO_PCI_INTX_IRQ_INDEX and action == v.VFIO_IRQ_SET_ACTION_MASK:
            self._mask_intx(request, data)
        elif request.index == v.VFIO_PCI_INTX_IRQ_INDEX and action == v.VFIO_IRQ_SET_ACTION_UNMASK:
            self._unmask_intx(request, data, descriptors)
        elif action != v.VFIO_IRQ_SET_ACTION_TRIGGER:
            raise IoctlError(
                ENOTTY, f"{_KINDS[request.index]} has no action {action:#x}: INTx alone can be masked and unmasked"
            )
        elif request.index == v.VFIO_PCI_INTX_IRQ_INDEX:
            self._trigger_intx(request, data, descriptors)
        elif request.index in self._single:
            self._trigger_single(request, data, descriptors)
        else:
            self._trigger_messages(request, data, descriptors)

    def tell_error(self) -> bool:
        """The function has failed; whether anybody was told. Ref: v7.3 vfio_pci_core.c
        vfio_pci_core_aer_err_detected
        """
        return self._tell(v.VFIO_PCI_ERR_IRQ_INDEX)

    def tell_request(self) -> bool:
        """Somebody wants the device back; whether the client was told. Ref: v7.3 vfio_pci_core.c
        vfio_pci_core_request
        """
        return self._tell(v.VFIO_PCI_REQ_IRQ_INDEX)

    def disable(self) -> None:
        """Nothing is in use any more: the device is closed. Ref: v7.3 vfio_pci_core.c
        vfio_pci_core_disable
        """
        if self._line is not None:
            self._disable_intx()
        elif self._index is not None:
            self._disable_messages()
        self._disabled = False
        for index in self._single:
            self._replace_single(index, None)

    # --- what configuration space asks ---

    @property
    def in_use(self) -> int | None:
        """VFIO_PCI_INTX_IRQ_INDEX, _MSI_ or _MSIX_."""
        return self._index

    def intx_disable(self, disabled: bool) -> None:
        """The virtual INTx disable bit. The function's own follows it, even when INTx is not in
        use.

        Ref: v7.3 vfio_pci_config.c vfio_basic_config_write
        """
        if disabled == self._disabled:
            return
        self._disabled = disabled
        if disabled:
            self._mask()
        else:
            self._unmask()

    # --- INTx ---

    def _mask_intx(self, request: IrqSet, data: bytes) -> None:
        self._one_vector_of_intx(request)
        if request.flags & v.VFIO_IRQ_SET_DATA_EVENTFD:
            raise IoctlError(ENOTTY, "INTx cannot be masked by an eventfd")
        if request.flags & v.VFIO_IRQ_SET_DATA_NONE or data[0]:
            self._mask()

    def _unmask_intx(self, request: IrqSet, data: bytes, descriptors: Descriptors) -> None:
        line = self._one_vector_of_intx(request)
        if not request.flags & v.VFIO_IRQ_SET_DATA_EVENTFD:
            if request.flags & v.VFIO_IRQ_SET_DATA_NONE or data[0]:
                self._unmask()
            return
        fd = int.from_bytes(data[:4], "little", signed=True)
        if fd < 0:
            if line.unmask is not None:
                line.unmask.close()
                line.unmask = None
            return
        ear = descriptors.listen(fd, self._unmask)
        if line.unmask is not None:
            ear.close()
            raise IoctlError(EBUSY, "an eventfd unmasks INTx already")
        line.unmask = ear

    def _one_vector_of_intx(self, request: IrqSet) -> _Line:
        if self._line is None or request.start != 0 or request.count != 1:
            raise IoctlError(EINVAL, "INTx is not in use, or is not asked for as one vector, 0")
        return self._line

    def _trigger_intx(self, request: IrqSet, data: bytes, descriptors: Descriptors) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_pci_set_intx_trigger"""
        none = request.flags & v.VFIO_IRQ_SET_DATA_NONE
        if self._line is not None and not request.count and none:
            self._disable_intx()
            return
        if (self._line is None and self._index is not None) or request.start != 0 or request.count != 1:
            raise IoctlError(EINVAL, f"{self._used()}, or INTx is not asked for as one vector, 0")
        if request.flags & v.VFIO_IRQ_SET_DATA_EVENTFD:
            fd = int.from_bytes(data[:4], "little", signed=True)
            trigger = descriptors.trigger(fd) if fd >= 0 else None
            if self._line is None:
                self._enable_intx(trigger)
                return
            old, self._line.trigger = self._line.trigger, trigger
            if old is not None:
                old.close()
            return
        if self._line is None:
            raise IoctlError(EINVAL, "INTx is not in use")
        if none or data[0]:
            self._signal_intx()

    def _enable_intx(self, trigger: Trigger | None) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_intx_enable"""
        if not self._host.function.interrupt_pin:
            if trigger is not None:
                trigger.close()
            raise IoctlError(ENODEV, f"{self._host.function.name} has no INTx")
        self._line = _Line(trigger, self._disabled)
        self._index = v.VFIO_PCI_INTX_IRQ_INDEX
        self._host.intx(not self._disabled)
        self._host.line_handler = self._asserted

    def _disable_intx(self) -> None:
        assert self._line is not None
        line, self._line, self._index = self._line, None, None
        self._host.line_handler = None
        for what in (line.unmask, line.trigger):
            if what is not None:
                what.close()

    def _asserted(self) -> None:
        """The host's interrupt handler. Ref: v7.3 vfio_pci_intrs.c vfio_intx_handler"""
        assert self._line is not None
        if not self._line.masked and self._host.check_and_mask_intx():
            self._line.masked = True
            self._signal_intx()

    def _signal_intx(self) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_send_intx_eventfd"""
        if self._line is not None and not self._disabled and self._line.trigger is not None:
            self._line.trigger.signal()

    def _mask(self) -> None:
        """Ref: v7.3 vfio_pci_intrs.c __vfio_pci_intx_mask"""
        if self._line is None:
            self._host.intx(False)
        elif not self._line.masked:
            self._host.intx(False)
            self._line.masked = True

    def _unmask(self) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_pci_intx_unmask_handler"""
        if self._line is None:
            self._host.intx(True)
        elif self._line.masked and not self._disabled:
            self._line.masked = not self._host.check_and_unmask_intx()
            if self._line.masked:
                self._signal_intx()

    # --- MSI and MSI-X ---

    def _trigger_messages(self, request: IrqSet, data: bytes, descriptors: Descriptors) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_pci_set_msi_trigger"""
        on, none = self._index == request.index, request.flags & v.VFIO_IRQ_SET_DATA_NONE
        if on and not request.count and none:
            self._disable_messages()
            return
        if not on and self._index is not None:
            raise IoctlError(EINVAL, f"{self._used()}: there is one kind at a time")
        if request.flags & v.VFIO_IRQ_SET_DATA_EVENTFD:
            msix = request.index == v.VFIO_PCI_MSIX_IRQ_INDEX
            if not on:
                self._host.allocate_vectors(request.start + request.count, msix)
                self._index = request.index
                if not msix:
                    self.msi_limit = (2 * (request.start + request.count) - 1).bit_length() - 1
            fds = [int.from_bytes(data[4 * i : 4 * i + 4], "little", signed=True) for i in range(request.count)]
            try:
                self._set_block(request.start, fds, descriptors)
            except IoctlError:
                if not on:
                    self._disable_messages()
                raise
            return
        if not on:
            raise IoctlError(EINVAL, f"{_KINDS[request.index]} is not in use")
        for vector in range(request.start, request.start + request.count):
            if vector in self._vectors and (none or data[vector - request.start]):
                self._vectors[vector].signal()

    def _set_block(self, start: int, fds: Sequence[int], descriptors: Descriptors) -> None:
        """Set the vectors from `start` on. If one fails, that one and those before it are left
        without a trigger.

        Ref: v7.3 vfio_pci_intrs.c vfio_msi_set_block
        """
        for vector, fd in enumerate(fds, start):
            try:
                self._set_vector(vector, fd, descriptors)
            except IoctlError:
                for done in range(start, vector + 1):
                    self._release(done)
                raise

    def _set_vector(self, vector: int, fd: int, descriptors: Descriptors) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_msi_set_vector_signal"""
        self._release(vector)
        if fd < 0:
            return
        if vector not in self._host.allocated and not self._host.add_vector(vector):
            raise IoctlError(EINVAL, f"vector {vector} was not enabled: only {len(self._host.allocated)} were")
        trigger = self._vectors[vector] = descriptors.trigger(fd)
        self._host.request_vector(vector, trigger.signal)

    def _release(self, vector: int) -> None:
        trigger = self._vectors.pop(vector, None)
        if trigger is not None:
            self._host.free_vector(vector)
            trigger.close()

    def _disable_messages(self) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_msi_disable"""
        for vector in list(self._vectors):
            self._release(vector)
        self._host.free_vectors()
        self._index = None

    # --- ERR and REQ ---

    def _trigger_single(self, request: IrqSet, data: bytes, descriptors: Descriptors) -> None:
        """Ref: v7.3 vfio_pci_intrs.c vfio_pci_set_ctx_trigger_single"""
        trigger, kind = self._single[request.index], _KINDS[request.index]
        if request.flags & v.VFIO_IRQ_SET_DATA_NONE:
            if trigger is None:
                raise IoctlError(EINVAL, f"{kind} has no eventfd")
            if request.count:
                trigger.signal()
            else:
                self._replace_single(request.index, None)
            return
        if not request.count:
            raise IoctlError(EINVAL, f"no data for {kind}: count is 0")
        if request.flags & v.VFIO_IRQ_SET_DATA_BOOL:
            if data[0] and trigger is not None:
                trigger.signal()
            return
        fd = int.from_bytes(data[:4], "little", signed=True)
        if fd < -1:
            raise IoctlError(EINVAL, f"{fd} is no descriptor: -1 takes the eventfd away")
        self._replace_single(request.index, descriptors.trigger(fd) if fd >= 0 else None)

    def _replace_single(self, index: int, trigger: Trigger | None) -> None:
        old, self._single[index] = self._single[index], trigger
        if old is not None:
            old.close()

    def _tell(self, index: int) -> bool:
        trigger = self._single[index]
        if trigger is not None:
            trigger.signal()
        return trigger is not None

    def _used(self) -> str:
        return "no interrupts are in use" if self._index is None else f"{_KINDS[self._index]} is in use"
