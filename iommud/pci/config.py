"""Configuration space as vfio-pci shows it to whoever has opened the device.

When the device is opened, a copy of the function's registers is made. permissions.py says for each
bit whether reads and writes reach the copy or the function. What a write means is here:

- the copy's BARs can be sized as hardware's can;
- disabling memory makes the BARs unreachable, and disabling INTx masks it;
- the power state is set through the host;
- MSI is enabled by SET_IRQS, and not by its bit alone;
- the two reset bits reset the function.

A hidden capability is left out of the list. The bytes between capabilities are the function's own.

An access is cut at the end of each dword and of each capability, into aligned parts of 4, 2 or 1
bytes.

Ref: v7.3 drivers/vfio/pci/vfio_pci_config.c
"""

from collections.abc import Callable
from errno import EFAULT
from typing import Final, Protocol

from ..errors import IoctlError
from . import registers as r
from .bars import ROM
from .host import Host
from .permissions import (
    CAPABILITIES,
    EXTENDED,
    HEADER,
    READ_ONLY,
    UNASSIGNED,
    Permissions,
    Way,
    extended_length_of,
    length_of,
    msi,
)

BASIC: Final = 0  # the header's ID in the map
INVALID: Final = 0xFF  # no capability's


class Effects(Protocol):
    """What a write to configuration space may do to the rest of the device."""

    def intx_disable(self, disabled: bool) -> None:
        """The virtual INTx disable bit has this value now."""

    def memory_may_change(self) -> None:
        """Memory may have been enabled or disabled: by its bit, by the power state, or for a
        reset.
        """

    def msi(self) -> tuple[bool, int]:
        """Whether SET_IRQS has MSI enabled, and the logarithm of how many vectors it last had."""
        ...


class VirtualConfig:
    """From open to close."""

    def __init__(self, host: Host, effects: Effects) -> None:
        """A fresh copy. Ref: v7.3 vfio_pci_config.c vfio_config_init"""
        self._host: Final = host
        self._space: Final = host.config
        self._effects: Final = effects
        self._copy: Final = bytearray(self._space.size)
        self._map: Final = bytearray(r.PCI_STD_HEADER_SIZEOF) + bytes([INVALID]) * (
            self._space.size - r.PCI_STD_HEADER_SIZEOF
        )
        self._msi = READ_ONLY
        self._bars_dirty = True
        self._fill(0, r.PCI_STD_HEADER_SIZEOF)
        if host.function.virtual:  # whose own registers say FFFF, and have no memory enable
            self._show(r.PCI_VENDOR_ID, 2, host.function.identity.vendor)
            self._show(r.PCI_DEVICE_ID, 2, host.function.identity.device)
            self._show(r.PCI_INTERRUPT_PIN, 1, 0)
            self._show(r.PCI_COMMAND, 2, self._shown(r.PCI_COMMAND, 2) | r.PCI_COMMAND_MEMORY)
        self._find_capabilities()
        self._find_extended()
        self._after: Final[dict[int, Callable[[int, int, int, int], None]]] = {
            r.PCI_CAP_ID_PM: self._pm_written,
            r.PCI_CAP_ID_VPD: self._vpd_written,
            r.PCI_CAP_ID_MSI: self._msi_written,
            r.PCI_CAP_ID_EXP: self._express_written,
            r.PCI_CAP_ID_AF: self._features_written,
        }

    @property
    def size(self) -> int:
        """256 or 4096 bytes."""
        return self._space.size

    @property
    def memory_enabled(self) -> bool:
        """Loads and stores of the memory BARs reach the function. Ref: v7.3 vfio_pci_config.c
        __vfio_pci_memory_enabled
        """
        bit = self._host.function.virtual or self._copy[r.PCI_COMMAND] & r.PCI_COMMAND_MEMORY
        return self._host.power_state < r.PCI_D3HOT and bool(bit)

    @property
    def interrupt_pin(self) -> int:
        """As shown: 0: no INTx."""
        return self._copy[r.PCI_INTERRUPT_PIN]

    def read(self, offset: int, length: int) -> bytes:
        """EFAULT: it reaches beyond the end. Ref: v7.3 vfio_pci_config.c vfio_pci_config_rw"""
        self._check(offset, length)
        found = bytearray()
        while len(found) < length:
            at = offset + len(found)
            size = self._part(at, length - len(found))
            found += self._read(at, size).to_bytes(size, "little")
        return bytes(found)

    def write(self, offset: int, data: bytes) -> None:
        """As `read`. What may not be written is dropped."""
        self._check(offset, len(data))
        done = 0
        while done < len(data):
            size = self._part(offset + done, len(data) - done)
            self._write(offset + done, size, int.from_bytes(data[done : done + size], "little"))
            done += size

    def _check(self, offset: int, length: int) -> None:
        if offset + length > self.size:
            raise IoctlError(EFAULT, f"{offset:#x}+{length:#x} is beyond the {self.size} bytes of configuration space")

    def _part(self, at: int, left: int) -> int:
        """Bytes of the next access. Ref: v7.3 vfio_pci_config.c vfio_pci_cap_remaining_dword"""
        size = 1
        while (at + size) % 4 and self._map[at + size] == self._map[at]:
            size += 1
        size = min(size, left)
        if size >= 4 and at % 4 == 0:
            return 4
        return 2 if size >= 2 and at % 2 == 0 else 1

    def _owner(self, at: int) -> tuple[int, int, Permissions]:
        """What stands at `at`: its ID, where it starts, and what may be done. Ref: v7.3
        vfio_pci_config.c vfio_pci_config_rw_single
        """
        owner = self._map[at]
        if owner == INVALID:
            return owner, at, UNASSIGNED
        if at >= r.PCI_CFG_SPACE_SIZE:
            return owner, self._start(at, r.PCI_CFG_SPACE_SIZE), EXTENDED.get(owner, READ_ONLY)
        if owner == BASIC:
            return owner, 0, HEADER
        permissions = self._msi if owner == r.PCI_CAP_ID_MSI else CAPABILITIES.get(owner, READ_ONLY)
        return owner, self._start(at, r.PCI_STD_HEADER_SIZEOF), permissions

    def _start(self, at: int, base: int) -> int:
        """Where the capability at `at` starts. The kernel looks back as far as the map shows the
        same ID, so two of one kind that touch are taken for one.

        An extended capability with ID 0 is taken to start at 0, as the header does. Ref: v7.3
        vfio_pci_config.c vfio_find_cap_start
        """
        if self._map[at] == BASIC:
            return 0
        while at - 1 >= base and self._map[at - 1] == self._map[at]:
            at -= 1
        return at

    # --- reading ---

    def _read(self, at: int, size: int) -> int:
        owner, start, permissions = self._owner(at)
        offset = at - start
        if owner == BASIC and at < r.PCI_CFG_SPACE_SIZE and _is_bar(offset):
            self._fix_bars()
        if permissions.read is Way.RAW:
            return self._space.read(at, size)
        if permissions.read is Way.DIRECT:
            return self._read_direct(at, size, offset)
        virtual = int.from_bytes(permissions.virtual[offset : offset + size], "little")
        value = (self._space.read(at, size) & ~virtual) | (self._shown(at, size) & virtual)
        if self._host.function.virtual and owner == BASIC and at == r.PCI_COMMAND:
            value |= self._shown(at, 1) & r.PCI_COMMAND_MEMORY
        return value

    def _read_direct(self, at: int, size: int, offset: int) -> int:
        """The function's own registers, except the list's pointers. Ref: v7.3 vfio_pci_config.c
        vfio_direct_config_read
        """
        value = self._space.read(at, size)
        if at >= r.PCI_CFG_SPACE_SIZE:
            return self._shown(at, size) if offset < 4 else value
        if offset == r.PCI_CAP_LIST_ID and size > 1:
            return (value & ~0xFFFF) | self._shown(at, 2)
        return self._shown(at, 1) if offset == r.PCI_CAP_LIST_NEXT else value

    # --- writing ---

    def _write(self, at: int, size: int, value: int) -> None:
        owner, start, permissions = self._owner(at)
        if permissions.write is None:
            return
        if permissions.write is Way.RAW:
            self._space.write(at, size, value)
            return
        offset = at - start
        if at >= r.PCI_CFG_SPACE_SIZE:
            self._write_masked(at, size, value, permissions, offset)
        elif owner == BASIC:
            self._write_header(at, size, value)
        else:
            read_request = self._shown(start + r.PCI_EXP_DEVCTL, 2) if owner == r.PCI_CAP_ID_EXP else 0
            self._write_masked(at, size, value, permissions, offset)
            if owner == r.PCI_CAP_ID_EXP:
                self._read_request_written(start, read_request)
            after = self._after.get(owner)
            if after is not None:
                after(start, offset, size, value)

    def _write_masked(self, at: int, size: int, value: int, permissions: Permissions, offset: int) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_default_config_write"""
        write = int.from_bytes(permissions.writable[offset : offset + size], "little")
        virtual = int.from_bytes(permissions.virtual[offset : offset + size], "little")
        if write & virtual:
            self._show(at, size, (self._shown(at, size) & ~(write & virtual)) | (value & write & virtual))
        if own := write & ~virtual:
            self._space.write(at, size, (self._space.read(at, size) & ~own) | (value & own))

    def _write_header(self, at: int, size: int, value: int) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_basic_config_write"""
        self._write_masked(at, size, value, HEADER, at)
        if at == r.PCI_COMMAND:
            enables = r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_IO
            self._show(at, 1, (self._shown(at, 1) & ~enables) | (value & enables))
            self._effects.memory_may_change()
        if r.PCI_COMMAND <= at <= r.PCI_COMMAND + 1:
            self._effects.intx_disable(bool(self._shown(r.PCI_COMMAND, 2) & r.PCI_COMMAND_INTX_DISABLE))
        if _is_bar(at):
            self._bars_dirty = True

    def _pm_written(self, start: int, offset: int, size: int, value: int) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_pm_config_write"""
        if offset == r.PCI_PM_CTRL:
            self._host.set_power_state(value & r.PCI_PM_CTRL_STATE_MASK)
            self._effects.memory_may_change()

    def _vpd_written(self, start: int, offset: int, size: int, value: int) -> None:
        """The flag, in the address's upper byte, says write or read, and is toggled when that is
        done.

        Ref: v7.3 vfio_pci_config.c vfio_vpd_config_write
        """
        if offset > r.PCI_VPD_ADDR + 1 or offset + size <= r.PCI_VPD_ADDR + 1:
            return
        address = self._shown(start + r.PCI_VPD_ADDR, 2)
        if address & r.PCI_VPD_ADDR_F:
            if not self._host.write_vpd(address & ~r.PCI_VPD_ADDR_F, self._shown(start + r.PCI_VPD_DATA, 4)):
                return
        else:
            data = self._host.read_vpd(address)
            if data is None:
                return
            self._show(start + r.PCI_VPD_DATA, 4, data)
        self._show(start + r.PCI_VPD_ADDR, 2, address ^ r.PCI_VPD_ADDR_F)

    def _msi_written(self, start: int, offset: int, size: int, value: int) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_msi_config_write"""
        if not offset <= r.PCI_MSI_FLAGS <= offset + size:
            return
        flags, (on, limit) = self._shown(start + r.PCI_MSI_FLAGS, 2), self._effects.msi()
        if not on:
            flags &= ~r.PCI_MSI_FLAGS_ENABLE
        if (flags & r.PCI_MSI_FLAGS_QSIZE) >> 4 > limit:
            flags = (flags & ~r.PCI_MSI_FLAGS_QSIZE) | limit << 4
        self._show(start + r.PCI_MSI_FLAGS, 2, flags)
        self._space.write(start + r.PCI_MSI_FLAGS, 2, flags)

    def _express_written(self, start: int, offset: int, size: int, value: int) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_exp_config_write"""
        control = self._shown(start + r.PCI_EXP_DEVCTL, 2)
        if control & r.PCI_EXP_DEVCTL_BCR_FLR:
            self._show(start + r.PCI_EXP_DEVCTL, 2, control & ~r.PCI_EXP_DEVCTL_BCR_FLR)
            if self._space.read(start + r.PCI_EXP_DEVCAP, 4) & r.PCI_EXP_DEVCAP_FLR:
                self._reset()

    def _read_request_written(self, start: int, old: int) -> None:
        """The function reads in pieces as large as the client wants, but no smaller than a payload.
        Ref: v7.3 vfio_pci_config.c vfio_exp_config_write
        """
        wanted = self._shown(start + r.PCI_EXP_DEVCTL, 2) & r.PCI_EXP_DEVCTL_READRQ
        if wanted != old & r.PCI_EXP_DEVCTL_READRQ:
            own = self._space.read(start + r.PCI_EXP_DEVCTL, 2)
            size = max(wanted >> 12, (own & r.PCI_EXP_DEVCTL_PAYLOAD) >> 5)
            if size <= 5:  # 4096 bytes; larger ones do not exist
                self._space.write(start + r.PCI_EXP_DEVCTL, 2, (own & ~r.PCI_EXP_DEVCTL_READRQ) | size << 12)

    def _features_written(self, start: int, offset: int, size: int, value: int) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_af_config_write"""
        control = self._shown(start + r.PCI_AF_CTRL, 1)
        if control & r.PCI_AF_CTRL_FLR:
            self._show(start + r.PCI_AF_CTRL, 1, control & ~r.PCI_AF_CTRL_FLR)
            if self._space.read(start + r.PCI_AF_CAP, 1) & 3 == r.PCI_AF_CAP_FLR | r.PCI_AF_CAP_TP:
                self._reset()

    def _reset(self) -> None:
        try:
            self._host.try_reset()
        except IoctlError:  # the write has succeeded all the same
            pass
        self._effects.memory_may_change()

    # --- the copy ---

    def _shown(self, at: int, size: int) -> int:
        return int.from_bytes(self._copy[at : at + size], "little")

    def _show(self, at: int, size: int, value: int) -> None:
        self._copy[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _fill(self, at: int, length: int) -> None:
        length = min(length, self.size - at)
        self._copy[at : at + length] = self._space.read(at, length).to_bytes(length, "little")

    def _fix_bars(self) -> None:
        """What was written to the BARs becomes what hardware would show. Ref: v7.3
        vfio_pci_config.c vfio_bar_fixup
        """
        if not self._bars_dirty:
            return
        resources, number = self._host.function.layout.resources, 0
        while number < r.PCI_STD_NUM_BARS:
            at, resource = r.PCI_BASE_ADDRESS_0 + 4 * number, resources.get(number)
            width = 8 if resource is not None and resource.bar.wide else 4
            value = 0 if resource is None else (self._shown(at, width) & -resource.bar.size) | resource.bar.flags
            self._show(at, width, value)
            number += width // 4
        rom = resources.get(ROM)
        bits = 0 if rom is None else -rom.bar.size | r.PCI_ROM_ADDRESS_ENABLE
        self._show(r.PCI_ROM_ADDRESS, 4, self._shown(r.PCI_ROM_ADDRESS, 4) & bits)
        self._bars_dirty = False

    def _find_capabilities(self) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_cap_init"""
        if not self._shown(r.PCI_STATUS, 2) & r.PCI_STATUS_CAP_LIST:
            return
        at, link, shown = self._space.read(r.PCI_CAPABILITY_LIST, 1), r.PCI_CAPABILITY_LIST, False
        for _ in range((r.PCI_CFG_SPACE_SIZE - r.PCI_STD_HEADER_SIZEOF) // r.PCI_CAP_SIZEOF):
            if not at:
                break
            capability, after = self._space.read(at, 1), self._space.read(at + r.PCI_CAP_LIST_NEXT, 1)
            length = length_of(self._space, capability, at)
            if length:
                self._map[at : at + length] = bytes([capability]) * min(length, self.size - at)
                self._fill(at, length)
                if capability == r.PCI_CAP_ID_PM:
                    self._show(at + r.PCI_PM_PMC, 2, self._shown(at + r.PCI_PM_PMC, 2) & ~r.PCI_PM_CAP_PME_MASK)
                    wakes = r.PCI_PM_CTRL_PME_ENABLE | r.PCI_PM_CTRL_PME_STATUS
                    self._show(at + r.PCI_PM_CTRL, 2, self._shown(at + r.PCI_PM_CTRL, 2) & ~wakes)
                elif capability == r.PCI_CAP_ID_MSI and self._msi is READ_ONLY:
                    self._msi = msi(length, self._space.read(at + r.PCI_MSI_FLAGS, 2))
                link, shown = at + r.PCI_CAP_LIST_NEXT, True
            else:
                self._show(link, 1, after)
            at = after
        if not shown:
            self._show(r.PCI_STATUS, 2, self._shown(r.PCI_STATUS, 2) & ~r.PCI_STATUS_CAP_LIST)

    def _find_extended(self) -> None:
        """Ref: v7.3 vfio_pci_config.c vfio_ecap_init"""
        at, before, shown = r.PCI_CFG_SPACE_SIZE, 0, False
        if self.size == r.PCI_CFG_SPACE_SIZE or not self._space.read(at, 4) or not self._has_extended():
            return
        for _ in range((self.size - r.PCI_CFG_SPACE_SIZE) // r.PCI_CAP_SIZEOF):
            if at < r.PCI_CFG_SPACE_SIZE:
                break
            header = self._space.read(at, 4)
            capability, after = header & 0xFFFF, header >> 20 & 0xFFC
            length = extended_length_of(self._space, capability, at)
            if not length and before:
                self._show(before, 4, (self._shown(before, 4) & ~(0xFFC << 20)) | after << 20)
                at = after
                continue
            self._map[at : at + (length or 4)] = bytes([capability & 0xFF]) * min(length or 4, self.size - at)
            self._fill(at, length or 4)
            if length:
                shown = True
            else:  # the first one anchors the list, so it stays, with ID 0
                self._show(at, 4, self._shown(at, 4) & 0xFFC << 20)
            before, at = at, after
        if not shown:
            self._show(r.PCI_CFG_SPACE_SIZE, 4, 0)

    def _has_extended(self) -> bool:
        """The kernel looks for them when it meets an Express capability, or one of PCI-X in its
        second version.
        """
        return r.PCI_CAP_ID_EXP in self._map[: r.PCI_CFG_SPACE_SIZE] or any(
            length_of(self._space, r.PCI_CAP_ID_PCIX, at) == 24
            for at in range(r.PCI_STD_HEADER_SIZEOF, r.PCI_CFG_SPACE_SIZE, 4)
            if self._map[at] == r.PCI_CAP_ID_PCIX
        )


def _is_bar(offset: int) -> bool:
    return (
        r.PCI_BASE_ADDRESS_0 <= offset < r.PCI_BASE_ADDRESS_5 + 4 or r.PCI_ROM_ADDRESS <= offset < r.PCI_ROM_ADDRESS + 4
    )
