"""What tests have a client make on the way: page tables, data for drivers, vIOMMUs."""

import struct
from collections.abc import Hashable
from typing import Any

from iommud.engine.device.device import Device
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.viommu import Viommu
from iommud.selftest.mock_domains import DATA_SELFTEST
from iommud.uapi.header import const

from .client import Client, Fields

PARENT, DIRTY = const("IOMMU_HWPT_ALLOC_NEST_PARENT"), const("IOMMU_HWPT_ALLOC_DIRTY_TRACKING")
FAULT, PASID = const("IOMMU_HWPT_FAULT_ID_VALID"), const("IOMMU_HWPT_ALLOC_PASID")
VIOMMUS: dict[Hashable, int] = {
    "mock": const("IOMMU_VIOMMU_TYPE_SELFTEST"),
    "smmuv3": const("IOMMU_VIOMMU_TYPE_ARM_SMMUV3"),
}
DATA = 0x2000_0000  # where the client has data for drivers


async def alloc(client: Client, device: Device, pt: int, flags: int = 0, **fields: Any) -> Any:
    """The new page table; None if it is refused."""
    answer = await client.send("HWPT_ALLOC", flags=flags, dev_id=device.id, pt_id=pt, **fields)
    if fields.get("expect"):
        assert answer.out_hwpt_id == 0
        return None
    return client.object(answer.out_hwpt_id)


def data(client: Client, content: bytes, kind: int = DATA_SELFTEST) -> Fields:
    client.memory.map(DATA, content)
    return {"data_type": kind, "data_len": len(content), "data_uptr": DATA}


async def nest(client: Client, device: Device, below: int, iotlb: int = 0x77, **fields: Any) -> Any:
    return await alloc(client, device, below, **data(client, iotlb.to_bytes(4, "little")), **fields)


async def new_viommu(
    client: Client, device: Device | None = None, parent: HwptPaging | None = None, **fields: Any
) -> Viommu:
    """Of a device's IOMMU, on a nest parent; by default on new ones."""
    device = device or client.device()
    parent = parent or await alloc(client, device, await client.new_ioas(), PARENT)
    answer = await client.send(
        "VIOMMU_ALLOC", type=VIOMMUS[device.iommu.kind], dev_id=device.id, hwpt_id=parent.id, **fields
    )
    viommu = client.object(answer.out_viommu_id)
    assert isinstance(viommu, Viommu)
    return viommu


def with_page(client: Client, number: int = 0x55) -> Fields:
    """Data by which the mock's vIOMMU has a page to be mapped, with a number in it."""
    client.memory.map(DATA, struct.pack("<IIQQ", number, 0, 0, 0))
    return {"data_len": 24, "data_uptr": DATA}
