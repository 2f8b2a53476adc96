"""Drivers other than vfio-pci, which stand for the kernel's own: who has a device, and whose the
DMA of its group is. The answers are Linux's: clients/test_group_clients.py compares them
(not_viable).
"""

from collections.abc import Hashable
from errno import EBUSY

import pytest

from iommud.models.edu import Edu
from iommud.pci import registers as r
from iommud.pci.address import Address
from iommud.pci.bus import Bus, Nobody
from iommud.pci.driver import Driver
from iommud.pci.function import PciFunction, Slot
from iommud.pci.kernel_dma import KernelDma
from iommud.pci.plugged import Plugged
from tests.engine.fakes import errno_of

from .kit import Modern, Plain
from .test_bus import DRIVER, EDU, HOME, MODERN, Sys, at

SOUND = "bus/pci/drivers/snd-hda_intel"
THERE = f"devices/pci0000:e0/{MODERN}"
PROBE, RESCAN = "bus/pci/drivers_probe", "bus/pci/rescan"


class Owners:
    """Who has the DMA of each group: the kernel, or a context."""

    def __init__(self) -> None:
        self.kernel: list[Hashable] = []
        self.contexts: set[Hashable] = set()

    def claim(self, group: Hashable) -> bool:
        if group in self.contexts:
            return False
        assert group not in self.kernel
        self.kernel.append(group)
        return True

    def release(self, group: Hashable) -> None:
        self.kernel.remove(group)


@pytest.fixture
def owners() -> Owners:
    return Owners()


@pytest.fixture
def sys(owners: Owners) -> Sys:
    """vfio-pci has an edu, another driver the other device of the group."""
    made = Sys(dma=KernelDma(owners.claim, owners.release))
    made.bus.plug(Edu(Slot(Address(device=0), group="both")), "vtd")
    made.bus.plug(Modern(Slot(Address(device=1), group="both")), "vtd", driver="snd-hda_intel")
    made.tree.refresh()
    return made


def driver_of(sys: Sys, home: str = THERE) -> str:
    link = sys.link(f"{home}/driver")
    return "nobody" if link is None else link.rsplit("/", 1)[1]


def test_what_sysfs_has_of_it(sys: Sys) -> None:
    assert driver_of(sys) == "snd-hda_intel"
    assert sys.link(f"{SOUND}/{MODERN}") == f"../../../../{THERE}"
    assert sys.link(f"{SOUND}/module") == "../../../../module/snd_hda_intel"
    assert sys.link(f"{DRIVER}/module") == "../../../../module/vfio_pci"
    assert sys.resolves() == []
    assert sys.read(f"{THERE}/uevent").startswith("DRIVER=snd-hda_intel\n")
    assert (sys.read(f"{THERE}/enable"), sys.read(f"{HOME}/enable")) == ("1\n", "0\n")
    assert (sys.read(f"{THERE}/power/control"), sys.read(f"{THERE}/power/runtime_status")) == ("on\n", "active\n")
    assert f"{THERE}/vfio-dev" not in sys.tree.entries
    assert {path.removeprefix(SOUND) for path in sys.tree.entries if path.startswith(f"{SOUND}/")} == {
        *("/bind", "/unbind", "/new_id", "/remove_id", "/uevent", "/module", f"/{MODERN}"),
    }
    sys.write(f"{SOUND}/unbind", MODERN)
    assert f"{SOUND}/bind" in sys.tree.entries  # the driver stays
    assert f"{SOUND}/{MODERN}" not in sys.tree.entries


def test_it_enables_the_device_as_long_as_it_has_it(sys: Sys) -> None:
    enable, function = f"{THERE}/enable", sys.bus.find(MODERN).function
    assert function.command & r.PCI_COMMAND_MEMORY
    assert sys.write(enable, "1") == sys.write(enable, "0") == "EBUSY"
    function.config.write(4, 2, function.command | r.PCI_COMMAND_MASTER)
    sys.write(f"{SOUND}/unbind", MODERN)
    assert sys.read(enable) == "0\n"
    assert function.command & (r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER) == r.PCI_COMMAND_MEMORY
    sys.write(enable, "1")
    sys.write(f"{SOUND}/bind", MODERN)
    assert sys.read(enable) == "2\n"
    sys.write(f"{SOUND}/unbind", MODERN)
    assert sys.read(enable) == "1\n"


def test_bind_and_unbind(sys: Sys) -> None:
    assert sys.write(f"{SOUND}/bind", MODERN) == "EBUSY"
    assert sys.write(f"{SOUND}/bind", EDU) == "ENODEV", "its table does not name an edu"
    assert sys.write(f"{SOUND}/unbind", EDU) == "ENODEV"
    assert sys.write(f"{DRIVER}/bind", MODERN) == "ENODEV"
    assert sys.write(f"{DRIVER}/unbind", MODERN) == "ENODEV"
    assert sys.write(f"{SOUND}/unbind", MODERN + "\n") == 13
    assert sys.write(f"{SOUND}/unbind", MODERN) == "ENODEV"
    assert driver_of(sys) == "nobody"
    assert sys.write(f"{SOUND}/bind", MODERN) == 12
    assert driver_of(sys) == "snd-hda_intel"
    assert sys.clients.told == ["bound vfio0"], "nobody has anything to do with it"


def test_vfio_pci_takes_it_from_nobody(sys: Sys) -> None:
    identity = sys.bus.find(MODERN).function.identity
    ids = f"{identity.vendor:x} {identity.device:x}"
    assert sys.write(f"{DRIVER}/new_id", ids) == len(ids)
    assert driver_of(sys) == "snd-hda_intel"
    assert sys.write(f"{DRIVER}/bind", MODERN) == "EBUSY"
    assert sys.write(PROBE, MODERN) == 12
    assert driver_of(sys) == "snd-hda_intel"
    sys.write(f"{SOUND}/unbind", MODERN)
    assert sys.write(PROBE, MODERN) == 12
    assert driver_of(sys) == "snd-hda_intel", "it is asked first"
    sys.write(f"{SOUND}/unbind", MODERN)
    assert sys.write(f"{DRIVER}/bind", MODERN) == 12
    assert sys.write(f"{SOUND}/bind", MODERN) == "EBUSY"
    sys.write(f"{DRIVER}/unbind", MODERN)
    assert sys.write(f"{DRIVER}/new_id", ids) == "EEXIST"


def test_an_override(sys: Sys) -> None:
    override = f"{THERE}/driver_override"
    sys.write(override, "vfio-pci")
    assert driver_of(sys) == "snd-hda_intel"
    assert sys.write(f"{DRIVER}/bind", MODERN) == "EBUSY"
    sys.write(f"{SOUND}/unbind", MODERN)
    assert sys.write(f"{SOUND}/bind", MODERN) == "ENODEV"
    assert sys.write(PROBE, MODERN) == 12
    assert driver_of(sys) == "vfio-pci"
    sys.write(override, "snd-hda_intel\n")
    assert sys.write(f"{DRIVER}/unbind", MODERN) == 12
    assert sys.write(f"{DRIVER}/bind", MODERN) == "ENODEV"
    assert sys.write(PROBE, MODERN) == 12
    assert driver_of(sys) == "snd-hda_intel"
    sys.write(f"{DRIVER}/unbind", EDU)
    sys.write(f"{HOME}/driver_override", "snd-hda_intel")
    assert sys.write(f"{SOUND}/bind", EDU) == 12, "whatever its table says"


def test_ids(sys: Sys) -> None:
    identity = sys.bus.find(MODERN).function.identity
    ids = f"{identity.vendor:x} {identity.device:x}"
    for said, answer in (
        (ids, "EEXIST"),
        (f"{ids} 1 2", "EEXIST"),
        (f"{ids} ffffffff ffffffff 0 0 1", "EINVAL"),
        ("1 2", 3),
        ("1 2", "EEXIST"),
        ("1 2 3 4", "EEXIST"),
        ("1 2 ffffffff ffffffff 0 0 0", 27),
        ("1 3 ffffffff ffffffff 0 0 1", "EINVAL"),
        ("1 3 ffffffff ffffffff 0 0 100000000", "EINVAL"),
        ("1", "EINVAL"),
    ):
        assert sys.write(f"{SOUND}/new_id", said) == answer, said
    assert [sys.write(f"{SOUND}/remove_id", "1 2") for _ in range(3)] == [3, 3, "ENODEV"]
    assert sys.write(f"{SOUND}/remove_id", ids) == "ENODEV", "that is its table's"
    sys.write(f"{DRIVER}/unbind", EDU)
    assert sys.write(f"{SOUND}/new_id", "1234 11e8") == 9
    assert driver_of(sys, HOME) == "snd-hda_intel"
    assert sys.write(f"{SOUND}/remove_id", "1234 11e8") == 9
    assert driver_of(sys, HOME) == "snd-hda_intel"


def test_remove_and_rescan(sys: Sys, owners: Owners) -> None:
    sys.write(f"{THERE}/remove", "1")
    assert (owners.kernel, sys.link(f"{SOUND}/{MODERN}")) == ([], None)
    sys.write(RESCAN, "1")
    assert (owners.kernel, driver_of(sys), sys.read(f"{THERE}/enable")) == (["both"], "snd-hda_intel", "1\n")
    sys.write("bus/pci/drivers_autoprobe", "0")
    sys.write(f"{THERE}/remove", "1")
    sys.write(RESCAN, "1")
    assert (owners.kernel, driver_of(sys), sys.read(f"{THERE}/enable")) == ([], "nobody", "0\n")


def test_the_dma_of_a_group_is_the_kernels_until_its_last_device_is_unbound(sys: Sys, owners: Owners) -> None:
    sys.bus.plug(Modern(Slot(Address(device=2), group="both")), "vtd", driver="snd-hda_intel")
    assert owners.kernel == ["both"]
    sys.write(f"{SOUND}/unbind", MODERN)
    assert owners.kernel == ["both"]
    sys.write(f"{SOUND}/unbind", "0000:e0:02.0")
    assert owners.kernel == []


def test_while_a_context_has_the_group_no_native_driver_gets_a_device_of_it(sys: Sys, owners: Owners) -> None:
    sys.write(f"{SOUND}/unbind", MODERN)
    owners.contexts.add("both")
    assert sys.write(f"{SOUND}/bind", MODERN) == "EBUSY"
    assert sys.write(PROBE, MODERN) == "EINVAL"
    assert (driver_of(sys), sys.read(f"{THERE}/enable")) == ("nobody", "0\n")
    identity = sys.bus.find(MODERN).function.identity
    assert sys.write(f"{DRIVER}/new_id", f"{identity.vendor:x} {identity.device:x}") != "EBUSY"
    assert driver_of(sys) == "vfio-pci", "which does no DMA itself"
    sys.write(f"{THERE}/remove", "1")
    assert sys.write(RESCAN, "1") == 1
    assert driver_of(sys) == "nobody", "the native driver is asked, cannot, and nobody else is asked"
    sys.write(f"{DRIVER}/unbind", EDU)
    assert sys.write(f"{SOUND}/new_id", "1234 11e8") == 9
    assert driver_of(sys, HOME) == "nobody"
    owners.contexts.clear()
    assert sys.write(PROBE, MODERN) == 12
    assert driver_of(sys) == "snd-hda_intel"


def test_a_device_without_an_iommu_has_no_owner() -> None:
    def refuse(group: Hashable) -> bool:
        raise AssertionError(group)

    sys = Sys(dma=KernelDma(refuse))
    sys.bus.plug(Plain(at(0)), "none", driver="nic")
    assert sys.tree.refresh()
    assert driver_of(sys, HOME) == "nic"
    assert f"{HOME}/iommu_group" not in sys.tree.entries
    assert sys.write("bus/pci/drivers/nic/unbind", EDU) == 12
    assert driver_of(sys, HOME) == "nobody"


def test_the_type_of_a_group_cannot_change_while_it_has_a_device(sys: Sys) -> None:
    kind = "kernel/iommu_groups/5/type"
    assert sys.write(kind, "identity") == "EPERM"
    assert sys.write(kind, "nothing") == "EINVAL"
    sys.write(f"{SOUND}/unbind", MODERN)
    assert sys.write(kind, "identity") == 8


def test_drivers_are_asked_in_the_order_in_which_they_came() -> None:
    sys = Sys()
    sys.bus.plug(Plain(at(0)), "vtd", driver="first")
    sys.bus.plug(Plain(at(1)), "vtd", driver="second")
    sys.bus.plug(Plain(at(2)), "vtd", driver="none")
    sys.bus.plug(Plain(at(3)), "vtd")
    sys.tree.refresh()
    homes = [f"devices/pci0000:e0/0000:e0:{device:02x}.0" for device in range(4)]
    assert [driver_of(sys, home) for home in homes] == ["first", "second", "nobody", "vfio-pci"]
    for home in homes:
        sys.write(f"{home}/remove", "1")
    sys.write(RESCAN, "1")
    assert [driver_of(sys, home) for home in homes] == ["first"] * 4


class Meanwhile(Nobody):
    """While somebody waits for a device, somebody else gives it to its native driver."""

    def __init__(self, bus: Bus, native: Driver) -> None:
        self._bus, self._native = bus, native
        self._done = False

    async def let_go(self, plugged: Plugged) -> None:
        if not self._done:
            self._done = True
            (*_, vfio) = self._bus.drivers
            await self._bus.unbind(vfio, plugged.name)
            self._bus.bind(self._native, plugged.name)


def test_a_driver_that_comes_while_a_removal_waits_goes_too(sys: Sys, owners: Owners) -> None:
    sys.write(f"{SOUND}/unbind", MODERN)
    sys.write(f"{HOME}/driver_override", "snd-hda_intel")
    plugged = sys.bus.find(EDU)
    sys.bus.users = Meanwhile(sys.bus, sys.bus.drivers[0])
    assert sys.write(f"{HOME}/remove", "1") == 1
    assert (plugged.present, plugged.driver, owners.kernel) == (False, None, [])


def test_whoever_shows_it_is_told(sys: Sys, owners: Owners) -> None:
    changes: list[str] = []
    sys.bus.changed = lambda: changes.append("changed")
    for path, told in ((f"{SOUND}/unbind", 1), (f"{SOUND}/unbind", 0), (f"{SOUND}/bind", 1), (f"{SOUND}/bind", 0)):
        sys.write(path, MODERN)
        assert len(changes) == told, path
        changes.clear()


def test_a_claim_that_fails_counts_nothing(owners: Owners) -> None:
    function: PciFunction = Plain(Slot(Address(device=0), group="g"))
    sys = Sys(dma=KernelDma(owners.claim, owners.release))
    plugged = sys.bus.plug(function, "vtd", driver="none")
    owners.contexts.add("g")
    assert errno_of(lambda: sys.bus.dma.use(plugged)) == EBUSY
    owners.contexts.clear()
    sys.bus.dma.use(plugged)
    sys.bus.dma.leave(plugged)
    assert owners.kernel == []
