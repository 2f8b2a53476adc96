"""What VFIO's groups and their devices do to a container: the answers are those that Linux 7.3 gave
to a program that attached one."""

from errno import EINVAL, ENODEV, EPERM

import pytest

from iommud.errors import IoctlError
from iommud.ops.noiommu import CAP_SYS_RAWIO
from iommud.ops.vfio import DMA_CC, NOIOMMU, TYPE1, TYPE1V2, UNMAP_ALL
from iommud.uapi.header import const

from .client import Client
from .twins import PAGE

CHECK_EXTENSION, SET_IOMMU, UNMAP_DMA = map(const, ("VFIO_CHECK_EXTENSION", "VFIO_SET_IOMMU", "VFIO_IOMMU_UNMAP_DMA"))
ALL = const("VFIO_DMA_UNMAP_FLAG_ALL")


async def answer(client: Client, cmd: int, argument: int) -> int:
    """The result, or -errno."""
    try:
        return await client.call(cmd, argument)
    except IoctlError as refusal:
        return -refusal.errno


async def extensions(client: Client) -> list[int]:
    return [extension for extension in range(12) if await answer(client, CHECK_EXTENSION, extension) == 1]


async def unmap_all(client: Client) -> int:
    fields = (24, ALL), (0, 0, 0, 0)
    data = b"".join(number.to_bytes(4, "little") for part in fields for number in part)
    return await answer(client, UNMAP_DMA, client.memory.map(PAGE, data))


async def test_a_device_without_an_iommu() -> None:
    client = Client()
    assert await extensions(client) == [TYPE1, TYPE1V2, NOIOMMU, UNMAP_ALL]
    assert await answer(client, SET_IOMMU, NOIOMMU) == -EINVAL
    client.context.set_no_iommu()
    assert await extensions(client) == [NOIOMMU]
    assert await answer(client, CHECK_EXTENSION, DMA_CC) == -ENODEV
    assert [await answer(client, SET_IOMMU, kind) for kind in (TYPE1, TYPE1V2, 0)] == 3 * [-EINVAL]
    assert await answer(client, SET_IOMMU, NOIOMMU) == -EPERM
    client.caller.capabilities.add(CAP_SYS_RAWIO)
    assert await answer(client, SET_IOMMU, NOIOMMU) == 0
    assert await unmap_all(client) == -ENODEV


async def test_an_ioas_can_be_set_all_the_same() -> None:
    """It is only never made by itself."""
    client = Client()
    client.context.set_no_iommu()
    with pytest.raises(IoctlError) as refused:
        client.context.ensure_compat_ioas()
    assert (refused.value.errno, len(client.context.objects)) == (EINVAL, 0)
    other = Client().context.ensure_compat_ioas()
    client.context.objects.reserve(other)
    client.context.objects.publish(other)
    client.context.set_compat_ioas(other)
    assert await answer(client, SET_IOMMU, TYPE1) == -EINVAL
    assert await extensions(client) == [DMA_CC, NOIOMMU]
    assert await unmap_all(client) == 0


async def test_a_group_makes_an_ioas_once() -> None:
    client = Client()
    assert await answer(client, SET_IOMMU, TYPE1) == -ENODEV
    first = client.context.ensure_compat_ioas()
    assert client.context.ioas(1) is first, "it is the client's like any other"
    assert client.context.ensure_compat_ioas() is first, "a second group shares it"
    assert await answer(client, SET_IOMMU, TYPE1) == 0
    with pytest.raises(IoctlError) as refused:
        client.context.set_no_iommu()
    assert refused.value.errno == EINVAL
    client.context.set_compat_ioas(None)
    assert client.context.ensure_compat_ioas().id == 2, "after a CLEAR the next group makes another"


async def test_a_destroyed_one_is_none() -> None:
    client = Client()
    first = client.context.ensure_compat_ioas()
    client.context.objects.remove(first.id)
    assert client.context.ensure_compat_ioas() is not first
    client.context.objects.remove(1)
    client.context.set_no_iommu()
    assert await extensions(client) == [NOIOMMU]
