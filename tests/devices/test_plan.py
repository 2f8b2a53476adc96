"""The files of `--device` are made by one process and served by another, which makes the devices:
both must come to the same groups.
"""

import pytest

from iommud.doors import Behind, doors
from iommud.engine.memory.host import Host
from iommud.file.vfio_devices import Devices
from iommud.iommus.kinds import CLASSES
from iommud.models.plan import groups, plan
from iommud.pci.driver import VFIO_PCI
from iommud.settings import Settings

FIRST = 5  # what the machine leaves


@pytest.mark.parametrize(
    ("devices", "files"),
    [
        (("edu",), ["5"]),
        (("edu", "edu"), ["5", "6"]),
        (("edu,group=3", "edu", "edu,group=3"), ["5", "6"]),
        (("edu,iommu=none",), ["noiommu-5"]),
        (("edu,iommu=none,group=3", "edu,iommu=none,group=3"), ["noiommu-5", "noiommu-6"]),
        (("edu,iommu=none,group=3", "edu,group=3", "edu,group=3"), ["noiommu-5", "6"]),
        (("edu,driver=none", "edu,iommu=none", "edu"), ["5", "noiommu-6", "7"]),
        (("edu,iommu=none,driver=none", "edu"), ["5", "noiommu-6"]),
        (("edu,driver=snd_hda_intel", "edu"), ["5", "6"]),
        (("edu,group=1,driver=ioatdma", "edu", "edu,group=1"), ["5", "6"]),
        (("edu,driver=a", "edu,iommu=none,driver=b", "edu,iommu=none"), ["5", "noiommu-6", "noiommu-7"]),
    ],
)
async def test_names_are_those_of_the_bus(devices: tuple[str, ...], files: list[str]) -> None:
    planned = groups(plan(devices, CLASSES), FIRST)
    assert [each.file for each in planned] == files
    made = Devices(Settings(devices=devices), Host(), None, first_group=FIRST)
    for plugged in made.bus:
        if plugged.native is not None:
            (driver,) = [each for each in made.bus.drivers if each.name == plugged.native]
            await made.bus.unbind(driver, plugged.name)
        plugged.override = VFIO_PCI
        made.bus.probe(plugged.name)  # where it is not bound yet
    assert [plugged.vfio_name for plugged in made.bus] == [each.file for each in plan(devices, CLASSES)]
    shown = {plugged.group_name: made.bus.group_minor(plugged.group or 0) for plugged in made.bus}
    assert shown == {each.file: each.minor for each in planned}
    assert {plugged.group for plugged in made.bus if made.groups.find(plugged.group or 0)} == {
        each.number for each in planned
    }


def test_who_has_devices_has_groups_and_a_container() -> None:
    settings = Settings(devices=("edu",))
    assert [door.name for door in doors(Settings())] == ["iommu"]
    shown = doors(settings, FIRST)
    assert [door.name for door in shown] == ["iommu", "vfio/vfio", "vfio/devices/vfio0", "vfio/5"]
    assert (shown[-1].behind, shown[-1].index, shown[-1].mode) == (Behind.GROUP, 5, 0o600)
