"""The /sys that a program with devices sees: our devices among the machine's own."""

import os
from collections.abc import Callable
from typing import Final

from cuse_glue.tree.merge import Merged, merge

from ..file.device_file import IommuDevice
from ..file.sys_directory import SysDirectory
from ..iommus.shown import shown
from ..pci.bus import Bus
from ..pci.sysfs_tree import Machine, SysfsTree

SYS: Final = "/sys"


def tree_of(bus: Bus, say: Callable[[str], None] | None, *, type1: bool = False) -> SysDirectory:
    """What the devices are in /sys. `say`: told a sentence for each write that is refused. `type1`:
    as Machine.
    """
    kinds = {plugged.iommu for plugged in bus if plugged.isolated}
    machine = Machine(cpus=os.cpu_count() or 1, iommus={kind: shown(kind) for kind in kinds}, type1=type1)
    return SysDirectory(bus, SysfsTree(bus, machine), say)


def merged(device: IommuDevice, say: Callable[[str], None] | None) -> Merged:
    """What `tree_of` gives, merged with what this process sees in /sys. OSError: /sys cannot be
    read.
    """
    return merge(tree_of(device.devices.bus, say, type1=device.is_type1).root, SYS)
