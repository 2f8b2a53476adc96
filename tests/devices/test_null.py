"""The null device, by itself and with a live client."""

from errno import EFAULT, EINVAL, ENOENT, EPERM
from pathlib import Path

import pytest

from iommud.engine.device.device import at_once
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.iommus.plain import PlainIommu
from iommud.models.null import NullDevice
from tests.engine.fakes import P, errno_of, map_
from tests.engine.world import World

from .harness import attach, client, serving

PAGE = 4096


@pytest.fixture
def world() -> World:
    return World()


def test_it_copies_what_its_page_table_shows(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    null = NullDevice(world.context, PlainIommu())
    at_once(null.device.attach(ioas.id))
    map_(ioas, origin, 0, P, 0x10_0000, prot=PROT_READ)
    map_(ioas, origin, 4 * P, 2 * P, 0x20_0000, prot=PROT_WRITE)
    origin.fill(100, b"from here")
    null.copy(0x10_0064, 0x20_0FFD, 9)
    assert origin.read(5 * P - 3, 9) == b"from here"
    assert errno_of(lambda: null.copy(0x20_0000, 0x10_0000, 1)) == EPERM
    assert errno_of(lambda: null.copy(0x10_0000, 0x10_0001, 1)) == EPERM
    assert errno_of(lambda: null.copy(0x10_0FFF, 0x20_0000, 2)) == ENOENT
    null.remove()
    assert errno_of(lambda: null.copy(0x10_0064, 0x20_0000, 1)) == ENOENT
    world.close()


def test_what_it_says_of_itself(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    null, other = NullDevice(world.context, iommu := PlainIommu()), NullDevice(world.context, iommu)
    hwpt = at_once(null.device.attach(ioas.id))
    assert at_once(other.device.attach(ioas.id)) == hwpt  # any page table will do
    assert list(ioas.iopt.usable()) == [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 39) - 1)]
    assert ioas.iopt.iova_alignment == P
    assert errno_of(lambda: map_(ioas, origin, 0, P, 0xFEE0_0000)) == EINVAL
    null.remove()
    other.remove()
    world.close()


@pytest.mark.usefixtures("root")
async def test_with_a_live_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, client(served.path) as tell:
        ioas = await tell("ioas_alloc()")
        await tell(f"map_new('source', {ioas}, 0x100000, b'0123456789')")
        null = NullDevice(served.contexts[0], PlainIommu())
        await attach(null.device, ioas)
        await tell(f"map_new('target', {ioas}, 0x200000, b'.' * {2 * PAGE})")
        null.copy(0x10_0003, 0x20_0000 + PAGE - 2, 5)
        assert await tell(f"memory['target'][{PAGE - 4}:{PAGE + 5}]") == b"..34567.."
        # Shared memory outlives its mapping; what was unmapped from the IOAS is out of reach at
        # once.
        await tell("forget('source')")
        null.copy(0x10_0000, 0x20_0000, 10)
        assert await tell("memory['target'][:11]") == b"0123456789."
        assert await tell(f"unmap({ioas}, 0x200000, {2 * PAGE})") == "done"
        assert errno_of(lambda: null.copy(0x10_0000, 0x20_0000, 10)) == ENOENT
        assert await tell(f"unmap({ioas}, 0x100000, {PAGE})") == "done"
        null.remove()


@pytest.mark.usefixtures("root")
async def test_private_memory_of_a_live_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, client(served.path) as tell:
        ioas = await tell("ioas_alloc()")
        null = NullDevice(served.contexts[0], PlainIommu())
        await attach(null.device, ioas)
        await tell(f"map_new('mine', {ioas}, 0x100000, b'x' * {2 * PAGE}, shared=False)")
        await tell("memory['mine'].seek(0) or memory['mine'].write(b'private')")
        null.copy(0x10_0000, 0x10_0000 + PAGE, 7)
        assert await tell(f"memory['mine'][{PAGE}:{PAGE + 8}]") == b"privatex"
        null.remove()


@pytest.mark.usefixtures("root")
async def test_it_outlives_its_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        async with client(served.path) as tell:
            ioas = await tell("ioas_alloc()")
            null = NullDevice(served.contexts[0], PlainIommu())
            await attach(null.device, ioas)
            await tell(f"map_new('shared', {ioas}, 0x100000, b'shared')")
            await tell(f"map_new('private', {ioas}, 0x200000, b'private', shared=False)")
            null.copy(0x10_0000, 0x20_0000, 3)
        null.copy(0x10_0000, 0x10_0010, 6)
        null.copy(0x10_000F, 0x10_0020, 8)
        buffer = memoryview(bytearray(9))
        null.device.dma_read(0x10_0020, buffer)
        assert bytes(buffer) == b"\0shared\0\0"
        # Nobody's memory is taken for that of a process that is gone.
        assert errno_of(lambda: null.copy(0x20_0000, 0x10_0000, 1)) == EFAULT
        assert errno_of(lambda: null.copy(0x10_0000, 0x20_0000, 1)) == EFAULT
        null.remove()
