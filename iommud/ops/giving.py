"""The ioctls that give a descriptor to their caller. `iommud run` must know them before they are
made. This is light: numbers, no header.
"""

import os
from collections.abc import Collection
from typing import Final

FAULT_QUEUE_ALLOC: Final = 0x3B8E
VEVENTQ_ALLOC: Final = 0x3B93
TEST_CMD: Final = 0x3BA0
CREATE_ACCESS: Final = 5  # IOMMU_TEST_OP_*, the struct's second word
DMABUF_GET: Final = 22
VFIO_FEATURE: Final = 0x3B75
GET_DMA_BUF: Final = 0x1000B  # VFIO_DEVICE_FEATURE_GET of VFIO_DEVICE_FEATURE_DMA_BUF, the second word
VFIO_GROUP_GET_DEVICE_FD: Final = 0x3B6A


def picked(*, mock: bool, devices: bool) -> dict[int, Collection[int] | None]:
    """The commands to pick. If words are named, pick it only if the second word of the struct is
    one of them. `mock`: the kernel's selftest driver is there; `devices`: VFIO's device files
    are.

    For the selftest driver's command the watcher has to look at each call, which costs more than
    the call (110 µs), and its tests make a million calls. A daemon of root can give a descriptor to
    any client in another way (ways.py). So only an ordinary user's daemon has these picked.
    """
    found: dict[int, Collection[int] | None] = {FAULT_QUEUE_ALLOC: None, VEVENTQ_ALLOC: None}
    if mock and os.geteuid() != 0:
        found[TEST_CMD] = (CREATE_ACCESS, DMABUF_GET)
    if devices:
        found[VFIO_FEATURE] = (GET_DMA_BUF,)
        found[VFIO_GROUP_GET_DEVICE_FD] = None
    return found
