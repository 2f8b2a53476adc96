"""Devices that native drivers have at the start, and whose the DMA of their groups is."""

from errno import EBUSY, EPERM

from iommud.engine.device.context import Context
from iommud.engine.memory.host import Host
from iommud.engine.memory.share import Everywhere
from iommud.file.vfio_devices import Devices, groups_of_the_kernel
from iommud.iommus.kinds import new_iommu
from iommud.pci.driver import Driver
from iommud.settings import Settings
from tests.engine.fakes import errno_of

BOTH = Everywhere("group 1")
DEVICES = Settings(devices=("edu,group=1", "ioat,group=1,driver=ioatdma", "edu", "null,iommu=none,driver=nic"))
FIRST, MATE, ALONE, BARE = (f"0000:e0:{device:02x}.0" for device in range(4))


def ioatdma(made: Devices) -> Driver:
    (found,) = [driver for driver in made.bus.drivers if driver.name == "ioatdma"]
    return found


async def test_a_context_and_a_native_driver_exclude_each_other() -> None:
    host = Host()
    made, context = Devices(DEVICES, host, None), Context(host)
    function = made.bus.find(FIRST).function
    assert host.is_claimed(BOTH)
    assert errno_of(lambda: function.bind(context, new_iommu("vtd"))) == EPERM
    await made.bus.unbind(ioatdma(made), MATE)
    assert not host.is_claimed(BOTH)
    function.bind(context, new_iommu("vtd"))
    assert errno_of(lambda: made.bus.bind(ioatdma(made), MATE)) == EBUSY
    function.unbind()
    made.bus.bind(ioatdma(made), MATE)
    assert host.is_claimed(BOTH)
    context.put()
    await made.bus.unbind(ioatdma(made), MATE)
    assert host.empty()


def test_only_the_groups_of_native_drivers_are_the_kernels() -> None:
    assert groups_of_the_kernel(DEVICES, []) == {BOTH}
    alone = Settings(devices=("edu,driver=snd", "edu,driver=none"))
    assert groups_of_the_kernel(alone, []) == {Everywhere("device 0000:e0:00.0")}
    host = Host()
    made = Devices(alone, host, None)
    assert [host.is_claimed(plugged.function.group) for plugged in made.bus] == [True, False]


def test_what_another_process_has_claimed_is_not_claimed_again() -> None:
    host = Host()
    made = Devices(DEVICES, host, None, claims=False)
    assert host.empty()
    assert [plugged.driver for plugged in made.bus] == ["vfio-pci", "ioatdma", "vfio-pci", "nic"]
    assert made.open(1) is not None  # the third device: it is the second that vfio-pci has
    assert made.open(2) is None


class Elsewhere:
    """iommud.file.vfio_devices.Shared."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, name: str) -> int | None:
        return self.numbers.get(name)

    def opened(self, name: str, count: int) -> None:
        pass


def test_what_another_process_does_with_drivers_is_followed() -> None:
    shared = Elsewhere()
    made = Devices(DEVICES, Host(), None, claims=False, shared=shared)
    mate = made.bus.find(MATE)
    shared.numbers |= {FIRST: 0, ALONE: 1}
    assert made.open(2) is None
    assert (mate.native, mate.vfio) == ("ioatdma", None), "nobody has said anything of it"
    shared.numbers[MATE] = 2
    found = made.open(2)
    assert found is not None
    assert (found.plugged, mate.driver) == (mate, "vfio-pci")
    made.close(found)
    shared.numbers[MATE] = -1
    assert made.open(2) is None
    assert mate.driver is None
