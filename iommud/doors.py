"""The device files of one daemon, in one table. Both the process that mounts them and the one that
serves them go by it.

This is light: a process that only makes the files imports this, and no engine.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from .iommus.kinds import CLASSES
from .settings import Settings

CONTAINER_MODE: Final = 0o666  # and /dev/vfio/vfio: it does nothing without a device
DEVICE_MODE: Final = 0o600  # and a VFIO device's file


# Major and minor numbers. The kernel gives the IOMMU a minor that is free; VFIO's is fixed.
IOMMU_NUMBER: Final = (10, 256)
CONTAINER_NUMBER: Final = (10, 196)
DEVICE_MAJOR: Final = 511  # of VFIO devices; the kernel takes one that is free, from the top
GROUP_MAJOR: Final = 510  # and of VFIO groups


class Behind(Enum):
    """What an open of the file makes (iommud.file.device_file)."""

    IOMMU = "iommu"
    CONTAINER = "container"
    DEVICE = "device"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Door:
    """One device file: its name below /dev (or beside the first one), and its permission bits.
    `number`: major and minor of the character device that it is to Linux. `index`: which of the
    devices, or of the groups, is behind it.
    """

    name: str
    mode: int
    behind: Behind
    number: tuple[int, int]
    index: int = 0

    def is_mappable(self, settings: Settings) -> bool:
        """Whether clients can map anything of it: registers of a device, and what the mock's
        vIOMMUs have to show.
        """
        return self.has_regions or (self.behind is Behind.IOMMU and settings.mock)

    @property
    def has_regions(self) -> bool:
        """It is read and written at positions, which CUSE does not tell. A group's file stands for
        its devices, too.
        """
        return self.behind in (Behind.DEVICE, Behind.GROUP)


def doors(settings: Settings, first_group: int = 0) -> list[Door]:
    """The files that these settings ask for. The first is the IOMMU, whatever its name is.
    `first_group`: the groups of devices are numbered from there on.
    """
    found = [Door(settings.name, settings.mode, Behind.IOMMU, IOMMU_NUMBER)]
    if settings.vfio or settings.devices:
        found.append(Door("vfio/vfio", CONTAINER_MODE, Behind.CONTAINER, CONTAINER_NUMBER))
    if settings.devices:
        from .models.plan import groups, plan  # light only as long as nobody wants a device

        planned = plan(settings.devices, CLASSES, settings.iommu_of_devices)
        found += [
            Door(f"vfio/devices/{each.file}", DEVICE_MODE, Behind.DEVICE, (DEVICE_MAJOR, each.number), each.number)
            for each in planned
        ]
        found += [
            Door(f"vfio/{each.file}", DEVICE_MODE, Behind.GROUP, (GROUP_MAJOR, each.minor), each.number)
            for each in groups(planned, first_group)
        ]
    return found
