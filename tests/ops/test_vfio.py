"""What VFIO's groups and their devices do to a container. iommud has no groups, so no client gets here; the answers are those that
Linux 7.3 gave to a program that attached one."""

from errno import EINVAL, ENODEV, EPERM

import pytest

from iommud.errors import IoctlError
from iommud.ops.vfio import CAP_SYS_RAWIO, DMA_CC, NOIOMMU, TYPE1, TYPE1V2, UNMAP_ALL
from iommud.uapi.header import const

from .twins import PAGE, Bench

CHECK_EXTENSION, SET_IOMMU, UNMAP_DMA = map(const, ("VFIO_CHECK_EXTENSION", "VFIO_SET_IOMMU", "VFIO_IOMMU_UNMAP_DMA"))
ALL = const("VFIO_DMA_UNMAP_FLAG_ALL")


async def answer(bench: Bench, cmd: int, argument: int) -> int:
    """The result, or -errno."""
    try:
        return await bench.dispatcher.dispatch(bench.context, bench.caller, cmd, argument)
    except IoctlError as refusal:
        return -refusal.errno


async def extensions(bench: Bench) -> list[int]:
    return [extension for extension in range(12) if await answer(bench, CHECK_EXTENSION, extension) == 1]


async def unmap_all(bench: Bench) -> int:
    fields = (24, ALL), (0, 0, 0, 0)
    data = b"".join(number.to_bytes(4, "little") for part in fields for number in part)
    return await answer(bench, UNMAP_DMA, bench.caller.memory.map(PAGE, data))


async def test_a_device_without_an_iommu() -> None:
    bench = Bench()
    assert await extensions(bench) == [TYPE1, TYPE1V2, NOIOMMU, UNMAP_ALL]
    assert await answer(bench, SET_IOMMU, NOIOMMU) == -EINVAL
    bench.context.set_no_iommu()
    assert await extensions(bench) == [NOIOMMU]
    assert await answer(bench, CHECK_EXTENSION, DMA_CC) == -ENODEV
    assert [await answer(bench, SET_IOMMU, kind) for kind in (TYPE1, TYPE1V2, 0)] == 3 * [-EINVAL]
    assert await answer(bench, SET_IOMMU, NOIOMMU) == -EPERM
    bench.caller.capabilities.add(CAP_SYS_RAWIO)
    assert await answer(bench, SET_IOMMU, NOIOMMU) == 0
    assert await unmap_all(bench) == -ENODEV


async def test_an_ioas_can_be_set_all_the_same() -> None:
    """It is only never made by itself."""
    bench = Bench()
    bench.context.set_no_iommu()
    with pytest.raises(IoctlError) as refused:
        bench.context.ensure_compat_ioas()
    assert (refused.value.errno, len(bench.context.objects)) == (EINVAL, 0)
    other = Bench().context.ensure_compat_ioas()
    bench.context.objects.reserve(other)
    bench.context.objects.publish(other)
    bench.context.set_compat_ioas(other)
    assert await answer(bench, SET_IOMMU, TYPE1) == -EINVAL
    assert await extensions(bench) == [DMA_CC, NOIOMMU]
    assert await unmap_all(bench) == 0


async def test_a_group_makes_an_ioas_once() -> None:
    bench = Bench()
    assert await answer(bench, SET_IOMMU, TYPE1) == -ENODEV
    first = bench.context.ensure_compat_ioas()
    assert bench.context.ioas(1) is first, "it is the client's like any other"
    assert bench.context.ensure_compat_ioas() is first, "a second group shares it"
    assert await answer(bench, SET_IOMMU, TYPE1) == 0
    with pytest.raises(IoctlError) as refused:
        bench.context.set_no_iommu()
    assert refused.value.errno == EINVAL
    bench.context.set_compat_ioas(None)
    assert bench.context.ensure_compat_ioas().id == 2, "after a CLEAR the next group makes another"


async def test_a_destroyed_one_is_none() -> None:
    bench = Bench()
    first = bench.context.ensure_compat_ioas()
    bench.context.objects.remove(first.id)
    assert bench.context.ensure_compat_ioas() is not first
    bench.context.objects.remove(1)
    bench.context.set_no_iommu()
    assert await extensions(bench) == [NOIOMMU]
