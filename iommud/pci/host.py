"""What a host does to a PCI function: Linux's PCI core, as far as vfio-pci asks it for
something.

The host's firmware has placed the windows and enabled them. From then on whoever drives the
function enables it, masks its INTx line, turns its message interrupts on, sets its power state, and
resets it; the registers that this needs are written here, as the kernel writes them.

The function's interrupts come in by `message` and `line`, and go to the handlers that were
registered. A vector that has no handler is masked, and its message stays pending in the function.
Most MSI has no mask bits: then the message comes all the same. If the vector has never had a
handler, the host remembers the message for the first one; otherwise the message is lost.

Ref: v7.3 drivers/pci/{pci,irq}.c, drivers/pci/msi/{api,msi}.c
"""

from collections.abc import Callable
from errno import EINVAL, ENOSPC, ENOTTY, ERANGE
from typing import Final

from ..errors import IoctlError
from . import registers as r
from .function import PciFunction

FIRMWARE_COMMAND: Final = r.PCI_COMMAND_IO | r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_SERR
IRQ: Final = 10  # what firmware wires INTx to
MESSAGE_ADDRESS: Final = 0xFEE00000  # where an x86 takes messages for interrupts


class Host:
    """The host's side of one function. `dynamic_msix`: vectors of MSI-X can be added while others
    are in use, as on x86.
    """

    dynamic_msix = True

    def __init__(self, function: PciFunction) -> None:
        self.function: Final = function
        self.config: Final = function.config
        self.power_state = r.PCI_D0
        self._chosen: tuple[str, ...] | None = None  # of the ways to reset it; None: all
        self.mode = 0  # the ID of the capability whose messages are on; 0: INTx
        self.allocated: set[int] = set()  # vectors of that capability
        self.line_handler: Callable[[], None] | None = None
        self._handlers: dict[int, Callable[[], None]] = {}
        self._untouched: set[int] = set()  # vectors that no handler was registered for yet
        self._late: set[int] = set()  # of those, the ones whose message has come
        self._asserted = False  # INTx, when it was last looked at
        self._asleep: dict[tuple[int, int], int] = {}  # what was saved before D3hot
        self.config.write(r.PCI_COMMAND, 2, FIRMWARE_COMMAND)
        if function.interrupt_pin:
            self.config.write(r.PCI_INTERRUPT_LINE, 1, IRQ)
        function.wires = self

    # --- enabling ---

    def enable(self) -> None:
        """Its windows answer. Ref: v7.3 pci.c pci_enable_device"""
        kinds = {resource.bar.io for resource in self.function.layout.resources.values()}
        wanted = (r.PCI_COMMAND_IO if True in kinds else 0) | (r.PCI_COMMAND_MEMORY if False in kinds else 0)
        self._command(wanted, wanted)

    def clear_master(self) -> None:
        """No DMA, no messages."""
        self._command(r.PCI_COMMAND_MASTER, 0)

    def intx(self, on: bool) -> None:
        """Let the function assert its INTx, or not. Ref: v7.3 pci.c pci_intx"""
        self._command(r.PCI_COMMAND_INTX_DISABLE, 0 if on else r.PCI_COMMAND_INTX_DISABLE)

    def check_and_mask_intx(self) -> bool:
        """Mask INTx if it is this function that asserts it. Returns whether it is. Ref: v7.3 irq.c
        pci_check_and_mask_intx
        """
        if not self.function.intx_pending:
            return False
        self.intx(False)
        return True

    def check_and_unmask_intx(self) -> bool:
        """Unmask INTx unless it would be asserted at once. Returns whether it was unmasked. Ref:
        v7.3 irq.c pci_check_and_unmask_intx
        """
        if self.function.intx_pending:
            return False
        self.intx(True)
        return True

    # --- power ---

    def set_power_state(self, state: int) -> None:
        """To D0 from anywhere; to a deeper one from D0 or a less deep one, if the function has it.
        Otherwise nothing happens.

        Ref: v7.3 pci.c pci_set_power_state, pci_set_low_power_state
        """
        at = self.function.where.get(r.PCI_CAP_ID_PM)
        if at is None or state == self.power_state or (state != r.PCI_D0 and state < self.power_state):
            return
        capable = self.config.read(at + r.PCI_PM_PMC, 2)
        if (state == r.PCI_D1 and not capable & r.PCI_PM_CAP_D1) or (
            state == r.PCI_D2 and not capable & r.PCI_PM_CAP_D2
        ):
            return
        keeps = self.config.read(at + r.PCI_PM_CTRL, 2) & r.PCI_PM_CTRL_NO_SOFT_RESET
        if state == r.PCI_D3HOT:
            self._asleep = self.config_saved()
        waking, self.power_state = self.power_state == r.PCI_D3HOT, state
        control = self.config.read(at + r.PCI_PM_CTRL, 2) & ~r.PCI_PM_CTRL_STATE_MASK | state
        # On the way to D0 the kernel writes the whole word as 0, which disables waking too.
        self.config.write(at + r.PCI_PM_CTRL, 2, 0 if state == r.PCI_D0 else control)
        if waking and not keeps:
            self.function.power_on()
            self.restore(self._asleep)
        self.line()

    # --- reset ---

    @property
    def reset_methods(self) -> tuple[str, ...]:
        """The ways to reset the function, in the order in which they are tried. Ref: v7.3 pci.c
        pci_reset_fn_methods
        """
        return self.able() if self._chosen is None else self._chosen

    def choose_resets(self, names: tuple[str, ...] | None) -> None:
        """Reset in these ways, in this order; None: all that the function has. EINVAL: it does not
        have one of them.

        Ref: v7.3 drivers/pci/pci-sysfs.c reset_method_store
        """
        if names is not None and not set(names) <= set(self.able()):
            raise IoctlError(
                EINVAL, f"{self.function.name} can be reset by {' '.join(self.able()) or 'nothing'}, not by {names}"
            )
        self._chosen = names

    def able(self) -> tuple[str, ...]:
        """The ways to reset it that the function has."""
        where, read = self.function.where, self.config.read
        found = []
        express, features = where.get(r.PCI_CAP_ID_EXP), where.get(r.PCI_CAP_ID_AF)
        if express and read(express + r.PCI_EXP_DEVCAP, 4) & r.PCI_EXP_DEVCAP_FLR:
            found.append("flr")
        if features and read(features + r.PCI_AF_CAP, 1) & 3 == r.PCI_AF_CAP_FLR | r.PCI_AF_CAP_TP:
            found.append("af_flr")
        power = where.get(r.PCI_CAP_ID_PM)
        if power and not read(power + r.PCI_PM_CTRL, 2) & r.PCI_PM_CTRL_NO_SOFT_RESET:
            found.append("pm")
        return tuple(found) if self.function.resettable else ()

    def try_reset(self) -> None:
        """Reset it, with its configuration saved and restored. ENOTTY: it has no way. Ref: v7.3
        pci.c pci_try_reset_function
        """
        if not self.reset_methods:
            raise IoctlError(ENOTTY, f"{self.function.name} has no FLR, no AF and no reset by power state")
        self.set_power_state(r.PCI_D0)
        saved = self.config_saved()
        self.function.power_on()
        self.restore(saved)

    def config_saved(self) -> dict[tuple[int, int], int]:
        """The registers that a reset must not change: (offset, size) and value. Ref: v7.3 pci.c
        pci_save_state
        """
        ranges = [(offset, 4) for offset in range(0, r.PCI_STD_HEADER_SIZEOF, 4)]
        where = self.function.where
        for capability, registers in (
            (r.PCI_CAP_ID_EXP, (r.PCI_EXP_DEVCTL, r.PCI_EXP_LNKCTL, r.PCI_EXP_DEVCTL2)),
            (r.PCI_CAP_ID_PCIX, (r.PCI_X_CMD,)),
            (r.PCI_CAP_ID_MSIX, (r.PCI_MSIX_FLAGS,)),
        ):
            if at := where.get(capability):
                ranges += [(at + register, 2) for register in registers]
        if at := where.get(r.PCI_CAP_ID_MSI):
            flags = self.config.read(at + r.PCI_MSI_FLAGS, 2)
            length = 14 if flags & r.PCI_MSI_FLAGS_64BIT else 10
            ranges += [(offset, 2) for offset in range(at + r.PCI_MSI_FLAGS, at + length, 2)]
        if at := where.get(r.PCI_EXT_CAP_ID_ERR + 0x10000):
            ranges += [
                (at + register, 4)
                for register in (r.PCI_ERR_UNCOR_MASK, r.PCI_ERR_UNCOR_SEVER, r.PCI_ERR_COR_MASK, r.PCI_ERR_CAP)
            ]
        return {(offset, size): self.config.read(offset, size) for offset, size in ranges}

    def restore(self, saved: dict[tuple[int, int], int]) -> None:
        """Ref: v7.3 pci.c pci_restore_state, msi.c __pci_restore_msix_state"""
        for (offset, size), value in reversed(saved.items()):
            self.config.write(offset, size, value)
        if self.mode == r.PCI_CAP_ID_MSIX:
            for vector in sorted(self.allocated):
                self.function.messages.write_entry(vector, MESSAGE_ADDRESS, vector)
                self.function.messages.mask_entry(vector, vector not in self._handlers)

    # --- message interrupts ---

    def allocate_vectors(self, count: int, msix: bool) -> None:
        """Turn MSI or MSI-X on, with `count` vectors. ERANGE: none; EINVAL: not in D0; ENOSPC: it
        has fewer.

        Ref: v7.3 drivers/pci/msi/api.c pci_alloc_irq_vectors_affinity, msi.c
        __pci_enable_msi_range, __pci_enable_msix_range
        """
        awake = self.power_state == r.PCI_D0
        if not awake and not msix:
            raise IoctlError(EINVAL, f"{self.function.name} is in D{self.power_state}: MSI can be turned on in D0 only")
        if count < 1:
            raise IoctlError(ERANGE, "no vectors at all")
        if not awake:
            raise IoctlError(
                EINVAL, f"{self.function.name} is in D{self.power_state}: MSI-X can be turned on in D0 only"
            )
        if count > self.vectors(msix):
            raise IoctlError(ENOSPC, f"{self.function.name} has {self.vectors(msix)} vectors, not {count}")
        self.mode, self.allocated = r.PCI_CAP_ID_MSIX if msix else r.PCI_CAP_ID_MSI, set(range(count))
        self._untouched, self._late = set(self.allocated), set()
        self.intx(False)
        messages = self.function.messages
        if msix:
            for vector in range(messages.vectors):
                messages.mask_entry(vector, True)
            for vector in range(count):
                messages.write_entry(vector, MESSAGE_ADDRESS, vector)
            self.config.write(messages.msix + r.PCI_MSIX_FLAGS, 2, r.PCI_MSIX_FLAGS_ENABLE)
            return
        at = messages.msi
        flags = self.config.read(at + r.PCI_MSI_FLAGS, 2)
        wide, log = bool(flags & r.PCI_MSI_FLAGS_64BIT), (count - 1).bit_length()
        self.config.write(at + r.PCI_MSI_ADDRESS_LO, 4, MESSAGE_ADDRESS)
        self.config.write(at + (r.PCI_MSI_DATA_64 if wide else r.PCI_MSI_DATA_32), 2, 0x4020)
        self._mask_msi(range(1 << log), True)
        kept = flags & ~(r.PCI_MSI_FLAGS_QSIZE | r.PCI_MSI_FLAGS_ENABLE)
        self.config.write(at + r.PCI_MSI_FLAGS, 2, kept | log << 4 | r.PCI_MSI_FLAGS_ENABLE)

    def add_vector(self, vector: int) -> bool:
        """Add one more vector of MSI-X. False: it cannot be added. Ref: v7.3 drivers/pci/msi/api.c
        pci_msix_alloc_irq_at
        """
        if self.mode != r.PCI_CAP_ID_MSIX or not self.dynamic_msix:
            return False
        self.function.messages.write_entry(vector, MESSAGE_ADDRESS, vector)
        self.allocated.add(vector)
        return True

    def free_vectors(self) -> None:
        """Turn messages off, and INTx on. Ref: v7.3 msi.c pci_msi_shutdown, pci_msix_shutdown"""
        messages = self.function.messages
        if self.mode == r.PCI_CAP_ID_MSIX:
            for vector in range(messages.vectors):
                messages.mask_entry(vector, True)
            self.config.write(messages.msix + r.PCI_MSIX_FLAGS, 2, 0)
        elif self.mode:
            flags = self.config.read(messages.msi + r.PCI_MSI_FLAGS, 2)
            self.config.write(messages.msi + r.PCI_MSI_FLAGS, 2, flags & ~r.PCI_MSI_FLAGS_ENABLE)
            self._mask_msi(range(32), False)
        self.mode = 0
        self.allocated, self._untouched, self._late = set(), set(), set()
        self._handlers.clear()
        self.intx(True)

    def vectors(self, msix: bool) -> int:
        """How many the function has."""
        messages = self.function.messages
        if msix:
            return messages.vectors
        return (
            1 << ((self.config.read(messages.msi + r.PCI_MSI_FLAGS, 2) & r.PCI_MSI_FLAGS_QMASK) >> 1)
            if messages.msi
            else 0
        )

    def request_vector(self, vector: int, handler: Callable[[], None]) -> None:
        """`handler` is called for each message, one that was pending included."""
        self._handlers[vector] = handler
        self._untouched.discard(vector)
        if vector in self._late:
            self._late.remove(vector)
            handler()
        if self.mode == r.PCI_CAP_ID_MSIX:
            self.function.messages.mask_entry(vector, False)
        else:
            self._mask_msi(range(vector, vector + 1), False)

    def free_vector(self, vector: int) -> None:
        if self.mode == r.PCI_CAP_ID_MSIX:
            self.function.messages.mask_entry(vector, True)
        else:
            self._mask_msi(range(vector, vector + 1), True)
        self._handlers.pop(vector, None)

    # --- vital product data ---

    def read_vpd(self, address: int) -> int | None:
        """Four bytes of it; None: there is none. Beyond its end it reads as zero. Ref: v7.3
        drivers/pci/vpd.c pci_vpd_read
        """
        data = self.function.vpd
        return int.from_bytes(data[address : address + 4].ljust(4, b"\0"), "little") if data else None

    def write_vpd(self, address: int, value: int) -> bool:
        """False: nothing is written: there is no such data, or the address is no multiple of 4, or
        beyond the end. Ref: v7.3 vpd.c pci_vpd_write
        """
        data = self.function.vpd
        if not data or address % 4 or address + 4 > len(data):
            return False
        self.function.vpd = data[:address] + value.to_bytes(4, "little") + data[address + 4 :]
        return True

    # --- from the function ---

    def message(self, vector: int) -> None:
        if vector in self._handlers:
            self._handlers[vector]()
        elif vector in self._untouched:
            self._late.add(vector)

    def line(self) -> None:
        """A line that was up before there was a handler is noticed only when it rises again. It is
        so in QEMU's machines: their I/O APIC forgets levels at inputs that are not in use.
        Hardware's remembers them.
        """
        before, self._asserted = self._asserted, self.function.intx_asserted
        if self._asserted and not before and self.line_handler is not None:
            self.line_handler()

    def _command(self, bits: int, value: int) -> None:
        old = self.function.command
        if old & bits != value:
            self.config.write(r.PCI_COMMAND, 2, (old & ~bits) | value)

    def _mask_msi(self, vectors: range, masked: bool) -> None:
        flags = self.config.read(self.function.messages.msi + r.PCI_MSI_FLAGS, 2)
        if flags & r.PCI_MSI_FLAGS_MASKBIT:
            wide = flags & r.PCI_MSI_FLAGS_64BIT
            at = self.function.messages.msi + (r.PCI_MSI_MASK_64 if wide else r.PCI_MSI_MASK_32)
            bits, old = sum(1 << vector for vector in vectors), self.config.read(at, 4)
            self.config.write(at, 4, old | bits if masked else old & ~bits)
