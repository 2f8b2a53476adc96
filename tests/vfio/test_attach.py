"""ATTACH_IOMMUFD_PT and DETACH_IOMMUFD_PT. Ref: v7.3 device_cdev.c, iommufd.c"""

from errno import EFAULT, EINVAL, ENOENT, ENOSPC
from typing import Any

from iommud.engine.device.hwpt import HwptPaging
from iommud.pci.function import DmaFault
from tests.ops.client import NO_ID
from tests.pci.kit import Plain

from .kit import COMMAND, Machine, min_size

PASID = 1


class WithPasids(Plain):
    max_pasids = 1 << 20


async def new_hwpt(machine: Machine, device: int, ioas: int) -> int:
    answer = await machine.client.send("HWPT_ALLOC", dev_id=device, pt_id=ioas, flags=8)  # IOMMU_HWPT_ALLOC_PASID
    return int(answer.out_hwpt_id)


async def test_attach_replace_detach(machine: Machine) -> None:
    file = await machine.bound(machine.device())
    first, second = await machine.client.new_ioas(), await machine.client.new_ioas()
    hwpt = (await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=first)).pt_id
    assert isinstance(machine.client.object(hwpt), HwptPaging)
    assert (await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=first)).pt_id == hwpt
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=NO_ID, expect=ENOENT)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=second)
    machine.client.context.objects.remove(first)
    machine.client.cannot_go(second)
    await machine.ask(file, "DETACH_IOMMUFD_PT")
    await machine.ask(file, "DETACH_IOMMUFD_PT")
    machine.client.context.objects.remove(second)
    assert machine.client.kinds() == ["device"]


async def test_who_cannot_be_told_is_detached(machine: Machine) -> None:
    """Also from where it was before."""
    file = await machine.bound(machine.device())
    first, second = await machine.client.new_ioas(), await machine.client.new_ioas()
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=first)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=second, read_only=True, expect=EFAULT)
    for ioas in first, second:
        machine.client.context.objects.remove(ioas)


async def test_pasids(machine: Machine) -> None:
    file = await machine.bound(machine.device(WithPasids))
    device, ioas = machine.bound_of(file).in_context.id, await machine.client.new_ioas()
    first, second = [await new_hwpt(machine, device, ioas) for _ in range(2)]
    wanted: dict[str, Any] = {"flags": PASID, "pasid": 7}
    short = min_size("ATTACH_IOMMUFD_PT", "pt_id")
    await machine.ask(file, "ATTACH_IOMMUFD_PT", argsz=short, pt_id=first, expect=EINVAL, **wanted)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=first, **wanted)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=second, **wanted)
    machine.client.context.objects.remove(first)
    machine.client.cannot_go(second)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=second, flags=PASID, pasid=1 << 20, expect=EINVAL)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=second, flags=PASID, pasid=1 << 31, expect=ENOSPC)
    await machine.ask(file, "DETACH_IOMMUFD_PT", flags=PASID, pasid=8)
    machine.client.cannot_go(second)
    await machine.ask(file, "DETACH_IOMMUFD_PT", **wanted)
    machine.client.context.objects.remove(second)


async def test_a_close_detaches_everything(machine: Machine) -> None:
    file = await machine.bound(machine.device(WithPasids))
    device, ioas = machine.bound_of(file).in_context.id, await machine.client.new_ioas()
    hwpt = await new_hwpt(machine, device, ioas)
    await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=hwpt)
    for pasid in 1, 2:
        await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=hwpt, flags=PASID, pasid=pasid)
    file.release()
    machine.client.context.objects.remove(hwpt)
    machine.client.context.objects.remove(ioas)


async def test_dma_goes_where_it_is_attached(machine: Machine) -> None:
    file = await machine.bound(machine.device())
    function = machine.plugged(file).function
    ioas = await machine.client.new_ioas()
    await machine.client.map(ioas, 0x10000, address=0x7000_0000)
    file.write(COMMAND, b"\x06\0")
    for attached in False, True, False:
        try:
            function.dma_write(0x10000, b"abc")
        except DmaFault:
            assert not attached
        else:
            assert attached
            assert machine.client.memory.read(0x7000_0000, 3) == b"abc"
        if not attached:
            await machine.ask(file, "ATTACH_IOMMUFD_PT", pt_id=ioas)
        else:
            await machine.ask(file, "DETACH_IOMMUFD_PT")
    await machine.ask(file, "DETACH_IOMMUFD_PT")
