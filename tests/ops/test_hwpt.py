"""HWPT_ALLOC and HWPT_INVALIDATE. Ref: v7.3 hw_pagetable.c"""

import struct
from errno import E2BIG, EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP
from typing import Any

import pytest

from iommud.engine.device.device import at_once
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.nested import HwptNested
from iommud.engine.mapping.user_data import CHUNK
from iommud.ops.hwpt import LONGEST_STRUCT, MOST_ENTRIES
from iommud.selftest.mock_domains import (
    APERTURE_START,
    DATA_SELFTEST,
    HUGE_APERTURE_LAST,
    INVALIDATE_ALL,
    INVALIDATE_SELFTEST,
    MockNested,
)
from iommud.selftest.mock_viommu import CACHE_DEFAULT, INVALIDATE_VIOMMU_SELFTEST
from iommud.selftest.plug import NO_DIRTY
from iommud.uapi.header import const

from .client import NO_ID, Client, Fields
from .made import DATA, DIRTY, FAULT, PARENT, PASID, alloc, data, nest, new_viommu
from .twins import PAGE

HUGE_TABLE = struct.pack("<II", 0, 1)


@pytest.fixture
async def ioas(client: Client) -> int:
    return await client.new_ioas()


# --- page tables of an IOAS ---


@pytest.mark.parametrize("flags", [0, PARENT, DIRTY, PASID, PARENT | DIRTY | PASID])
async def test_alloc_makes_a_page_table_that_stays(client: Client, ioas: int, flags: int) -> None:
    device = client.device()
    hwpt = await alloc(client, device, ioas, flags)
    assert isinstance(hwpt, HwptPaging)
    assert (hwpt.nest_parent, hwpt.pasid_compat) == (bool(flags & PARENT), bool(flags & PASID))
    assert (hwpt.domain.dirty is not None) == bool(flags & DIRTY)
    assert (hwpt.auto, hwpt.fault, hwpt.users) == (False, None, [])
    assert client.object(ioas).users == [hwpt]
    at_once(device.attach(hwpt.id))
    device.detach()
    assert client.context.objects.has(hwpt)
    await client.send("DESTROY", id=hwpt.id)
    assert client.object(ioas).users == []


async def test_alloc_shows_what_is_mapped_and_pins_it(client: Client, ioas: int) -> None:
    await client.map(ioas, APERTURE_START, 2 * PAGE)
    device = client.device()
    hwpt = await alloc(client, device, ioas)
    assert client.host.user_pages == {client.caller.process.uid: 2}
    assert client.table(ioas).domains == [hwpt.domain]
    await client.send("DESTROY", id=hwpt.id)
    assert client.host.user_pages == {}


async def test_alloc_of_what_the_page_table_cannot_show(client: Client, ioas: int) -> None:
    """Then there is none, and the ID is free again."""
    device = client.device()
    await client.map(ioas, 0)
    await alloc(client, device, ioas, expect=EADDRINUSE, why="0x0..0xffffff cannot be reserved")
    await client.send("IOAS_UNMAP", ioas_id=ioas, length=PAGE)
    await client.map(ioas, APERTURE_START)
    client.memory.unmap(0x7000_0000)
    await alloc(client, device, ioas, expect=EFAULT, why="page 0x70000 is not mapped")
    assert client.table(ioas).domains == []
    assert list(client.table(ioas).reserved) == []
    client.memory.map(0x7000_0000)
    assert (await alloc(client, device, ioas)).id == 3


async def test_alloc_in_steps(client: Client, ioas: int) -> None:
    """A page table for very much gives others their turn; meanwhile nobody can destroy the IOAS, or
    find the page table.
    """
    for at in range(300):
        await client.map(ioas, APERTURE_START + at * PAGE)
    device = client.device()
    left: list[int] = []

    def look() -> None:
        client.cannot_go(ioas)
        left.append(len(client.kinds()))

    client.when_left = look
    await alloc(client, device, ioas)
    assert (left, client.pauses) == ([2], 1)
    assert len(client.kinds()) == 3


async def test_alloc_with_data_for_the_driver(client: Client, ioas: int) -> None:
    device = client.device()
    hwpt = await alloc(client, device, ioas, **data(client, HUGE_TABLE))
    assert hwpt.domain.aperture_last == HUGE_APERTURE_LAST
    await alloc(
        client, device, ioas, **data(client, HUGE_TABLE, 7), expect=EOPNOTSUPP, why="the mock knows no data of type 0x7"
    )
    await alloc(
        client, device, ioas, **data(client, HUGE_TABLE[:3]), expect=EINVAL, why="3 bytes of data, wanted: 4 to 8"
    )
    fields = data(client, HUGE_TABLE) | {"data_uptr": DATA + PAGE - 5}
    await alloc(client, device, ioas, **fields, expect=EFAULT, why="the data cannot be read beyond its first 5 bytes")
    await alloc(
        client, device, ioas, **data(client, struct.pack("<II", 0, 9)), expect=EOPNOTSUPP, why="no page table of kind 9"
    )


async def test_alloc_waits_for_as_much_data_as_a_struct_can_be(client: Client, ioas: int) -> None:
    device = client.device()
    fields = data(client, bytes(4))
    client.memory.make_slow(DATA)
    client.caller.meanwhile = lambda: client.cannot_go(ioas)
    await alloc(client, device, ioas, **fields)
    client.memory.make_slow(DATA)
    await alloc(client, device, ioas, **(fields | {"data_len": LONGEST_STRUCT + 1}), expect=EINVAL)
    assert client.caller.waits == [(DATA, 4), (DATA, LONGEST_STRUCT)]


async def test_a_device_that_goes_while_it_is_waited(client: Client, ioas: int) -> None:
    device = client.device()
    fields = data(client, bytes(4))
    client.memory.make_slow(DATA)
    client.caller.meanwhile = lambda: client.remove(device)
    await alloc(client, device, ioas, **fields, expect=ENOENT, why="there is no object 2")


async def test_alloc_in_the_kernels_order(client: Client, ioas: int) -> None:
    """Of an IOAS."""
    device = client.device(flags=NO_DIRTY)
    await client.send("FAULT_QUEUE_ALLOC")
    client.memory.map(DATA)
    await client.refuse_in_order(
        "HWPT_ALLOC",
        {
            "flags": 1 << 4 | PARENT | DIRTY | FAULT,
            "dev_id": NO_ID,
            "pt_id": NO_ID,
            "data_type": 0,
            "data_len": 4,
            "__reserved": 1,
            "fault_id": NO_ID,
        },
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (EINVAL, "4 bytes of data of type 0x0", {"data_type": DATA_SELFTEST, "data_len": 0}),
        (EINVAL, "0 bytes of data of type 0xdead", {"data_len": 4, "data_type": 8}),
        (ENOENT, f"there is no object {NO_ID}; wanted: device", {"dev_id": ioas}),
        (ENOENT, "object 1 is of kind IOAS; wanted: device", {"dev_id": device.id}),
        (EINVAL, f"there is no object {NO_ID}", {"pt_id": device.id}),
        (EINVAL, "is nothing to make a page table of", {"pt_id": ioas}),
        (EOPNOTSUPP, "unknown flags 0x10", {"flags": PARENT | DIRTY | FAULT}),
        (EOPNOTSUPP, "cannot track what its DMA writes", {"flags": PARENT | FAULT}),
        (EOPNOTSUPP, "a parent of nested page tables has no faults", {"flags": FAULT}),
        (EOPNOTSUPP, "the mock knows no data of type 0x8", {"data_type": DATA_SELFTEST}),
        (EFAULT, "the data cannot be read", {"data_uptr": DATA}),
        (ENOENT, f"there is no object {NO_ID}; wanted: fault queue", {"fault_id": ioas}),
        (ENOENT, "object 1 is of kind IOAS; wanted: fault queue", {"fault_id": 3}),
    )
    assert client.kinds() == ["IOAS", "device", "fault queue", "HWPT"]


@pytest.mark.parametrize("nested", [False, True])
async def test_alloc_that_cannot_be_told_leaves_nothing(client: Client, ioas: int, nested: bool) -> None:
    device = client.device()
    await client.send("FAULT_QUEUE_ALLOC")
    below = (await alloc(client, device, ioas, PARENT)).id if nested else ioas
    before = client.kinds()
    fields = data(client, bytes(4)) | {"flags": FAULT, "dev_id": device.id, "pt_id": below, "fault_id": 3}
    await client.send("HWPT_ALLOC", read_only=True, expect=EFAULT, why="the struct cannot be written", **fields)
    client.faults.arm(1)
    await client.send("HWPT_ALLOC", expect=ENOMEM, why="ID", **fields)
    assert client.kinds() == before
    assert client.object(below).users == []
    assert len(client.object(3).users) == 1, "its descriptor"


async def test_a_fault_queue_is_kept_by_its_page_table(client: Client, ioas: int) -> None:
    device = client.device()
    await client.send("FAULT_QUEUE_ALLOC")
    client.descriptors.close(100)
    hwpt = await alloc(client, device, ioas, FAULT, fault_id=3)
    assert (hwpt.fault.id, hwpt.domain.faults) == (3, True)
    await client.send("DESTROY", id=3, expect=EBUSY, why="fault queue 3 is in use by HWPT")
    await client.send("DESTROY", id=hwpt.id)
    await client.send("DESTROY", id=3)
    assert (await alloc(client, device, ioas, fault_id=3)).fault is None, "without the flag it is not looked at"


# --- nested ones ---


async def test_alloc_nests_in_a_parent(client: Client, ioas: int) -> None:
    device = client.device()
    parent = await alloc(client, device, ioas, PARENT)
    await client.send("FAULT_QUEUE_ALLOC")
    hwpt = await nest(client, device, parent.id, 0x1234, flags=FAULT | PASID, fault_id=4)
    assert isinstance(hwpt, HwptNested)
    assert isinstance(hwpt.domain, MockNested)
    assert (hwpt.parent, hwpt.domain.iotlb, hwpt.domain.viommu) == (parent, [0x1234] * 4, None)
    assert (hwpt.pasid_compat, hwpt.fault) == (True, client.object(4))
    await client.send("DESTROY", id=parent.id, expect=EBUSY, why=f"HWPT {parent.id} is in use by HWPT {hwpt.id}")
    await client.send("DESTROY", id=hwpt.id)
    await client.send("DESTROY", id=parent.id)


async def test_nested_in_the_kernels_order(client: Client, ioas: int) -> None:
    device, other, plain = client.device(), client.device(kind="vtd"), client.device(kind="none")
    auto = at_once(device.attach(ioas))
    parent, loose = await alloc(client, device, ioas, PARENT), await alloc(client, device, ioas)
    await client.refuse_in_order(
        "HWPT_ALLOC",
        {"flags": DIRTY | FAULT, "dev_id": plain.id, "pt_id": loose.id, "fault_id": NO_ID},
        (EOPNOTSUPP, "flags 0x6 have no meaning for a nested page table", {"flags": PARENT}),
        (EOPNOTSUPP, "flags 0x1 have no meaning for a nested page table", {"flags": FAULT}),
        (EOPNOTSUPP, "a nested page table needs data", {"data_type": 8, "data_len": 4, "data_uptr": 0}),
        (EOPNOTSUPP, "has no nested page tables", {"dev_id": other.id}),
        (EINVAL, "was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT", {"pt_id": auto}),
        (EINVAL, "was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT", {"pt_id": parent.id}),
        (EINVAL, "is of another kind of IOMMU than", {"dev_id": device.id}),
        (EOPNOTSUPP, "the mock knows no data of type 0x8", {"data_type": DATA_SELFTEST}),
        (EFAULT, "the data cannot be read", {"data_uptr": client.memory.map(DATA)}),
        (ENOENT, f"there is no object {NO_ID}; wanted: fault queue", {"flags": 0}),
    )
    nested = await nest(client, device, parent.id)
    await alloc(client, device, nested.id, expect=EINVAL, why="is nothing to make a page table of")


async def test_alloc_nests_in_a_viommu(client: Client, ioas: int) -> None:
    device, other = client.device(), client.device(kind="vtd")
    parent = await alloc(client, device, ioas, PARENT)
    viommu = await new_viommu(client, device, parent)
    hwpt = await nest(client, device, viommu.id, 5)
    assert (hwpt.parent, hwpt.domain.viommu, hwpt.domain.iotlb) == (parent, viommu, [5] * 4)
    assert viommu.users == [hwpt]
    await client.send("DESTROY", id=viommu.id, expect=EBUSY, why=f"in use by HWPT {hwpt.id}")
    await client.refuse_in_order(
        "HWPT_ALLOC",
        {"flags": PARENT | FAULT, "dev_id": other.id, "pt_id": viommu.id, "fault_id": NO_ID},
        (EINVAL, f"is not behind the IOMMU of vIOMMU {viommu.id}", {"dev_id": device.id}),
        (EOPNOTSUPP, "flags 0x5 have no meaning", {"flags": FAULT}),
        (EOPNOTSUPP, "needs data", {"data_type": DATA_SELFTEST, "data_len": 4, "data_uptr": client.memory.map(DATA)}),
        (ENOENT, "wanted: fault queue", {"flags": PASID}),
    )
    assert len(viommu.users) == 2


# --- HWPT_INVALIDATE ---


def entries(*pairs: tuple[int, ...]) -> bytes:
    return b"".join(struct.pack(f"<{len(pair)}I", *pair) for pair in pairs)


async def invalidate(client: Client, number: int, content: bytes, *, done: int, count: int = -1, **fields: Any) -> None:
    """Of entries of 8 bytes, unless said otherwise; `done`: what `entry_num` becomes."""
    client.memory.map(DATA, content)
    fields = {"data_type": INVALIDATE_SELFTEST, "data_uptr": DATA, "entry_len": 8} | fields
    number_of = len(content) // (fields["entry_len"] or 1) if count < 0 else count
    answer = await client.send("HWPT_INVALIDATE", hwpt_id=number, entry_num=number_of, **fields)
    assert answer.entry_num == done


@pytest.fixture
async def nested(client: Client, ioas: int) -> HwptNested:
    device = client.device()
    hwpt = await nest(client, device, (await alloc(client, device, ioas, PARENT)).id)
    assert isinstance(hwpt, HwptNested)
    return hwpt


def iotlb(hwpt: HwptNested) -> list[int]:
    assert isinstance(hwpt.domain, MockNested)
    return hwpt.domain.iotlb


async def test_invalidate_entry_by_entry(client: Client, nested: HwptNested) -> None:
    await invalidate(client, nested.id, entries((0, 1), (0, 3)), done=2)
    assert iotlb(nested) == [0x77, 0, 0x77, 0]
    await invalidate(
        client, nested.id, entries((0, 0), (0, 4), (0, 2)), done=1, expect=EINVAL, why="entry 1 names cache entry 4"
    )
    assert iotlb(nested) == [0, 0, 0x77, 0], "what came before is done, what comes after is not"
    await invalidate(client, nested.id, entries((2, 2)), done=0, expect=EOPNOTSUPP, why="unknown flags 0x2")
    await invalidate(client, nested.id, entries((INVALIDATE_ALL, 0)), done=1)
    assert iotlb(nested) == [0] * 4


async def test_invalidate_reads_when_it_comes_to_it(client: Client, nested: HwptNested) -> None:
    """The entries before the page that is not there are done."""
    content, edge = entries((0, 0), (0, 1)), DATA + PAGE - 12
    client.memory.map(edge, content[:12])
    fields: Fields = {"hwpt_id": nested.id, "data_type": INVALIDATE_SELFTEST, "data_uptr": edge, "entry_len": 8}
    answer = await client.send(
        "HWPT_INVALIDATE", entry_num=2, expect=EFAULT, why="entry 1 of the array cannot be read", **fields
    )
    assert answer.entry_num == 1
    assert iotlb(nested) == [0, 0x77, 0x77, 0x77]


async def test_invalidate_of_nothing_asks_for_the_type_only(client: Client, nested: HwptNested) -> None:
    await invalidate(client, nested.id, b"", done=0, data_uptr=0, entry_len=0)
    await invalidate(client, nested.id, b"", done=0, data_type=1, expect=EINVAL, why="data of type 0x1")


async def test_invalidate_of_much_pauses(client: Client, nested: HwptNested) -> None:
    """After each 64 KiB; every part is waited for, and the page table stays meanwhile."""
    count = CHUNK // 8 + 5
    client.memory.map(DATA, entries((0, 1)) * count)
    client.memory.make_slow(DATA, 8 * count)
    client.caller.meanwhile = lambda: client.cannot_go(nested.id)
    await invalidate(client, nested.id, b"", count=count, done=count)
    assert client.caller.waits == [(DATA, CHUNK), (DATA + CHUNK, 40)]
    client.caller.waits.clear()
    left: list[int] = []
    client.when_left = lambda: left.append(len(iotlb(nested)))
    await invalidate(client, nested.id, b"", count=count, done=count)
    assert (left, client.caller.waits, client.pauses) == ([4], [], 1), "it gives way all the same"
    left.clear()
    await invalidate(client, nested.id, b"", count=CHUNK // 8, done=CHUNK // 8)
    assert left == [], "not at the end"


async def test_invalidate_in_the_kernels_order(client: Client, ioas: int, nested: HwptNested) -> None:
    """On every path the client learns how many were done."""
    parent = nested.parent
    wrong: Fields = {
        "hwpt_id": NO_ID,
        "data_uptr": 0,
        "data_type": 1,
        "entry_len": 0,
        "entry_num": MOST_ENTRIES + 1,
        "__reserved": 1,
    }
    answer = await client.send("HWPT_INVALIDATE", expect=EOPNOTSUPP, **wrong)
    assert answer.entry_num == 0
    client.memory.map(DATA, entries((0, 0)))
    answer = await client.refuse_in_order(
        "HWPT_INVALIDATE",
        wrong,
        (EOPNOTSUPP, "__reserved is 0x1", {"__reserved": 0}),
        (EINVAL, f"{MOST_ENTRIES + 1} entries of 0 bytes at 0x0", {"data_uptr": DATA, "entry_len": 8}),
        (EINVAL, "entries of 8 bytes", {"entry_num": 1, "entry_len": 0}),
        (EINVAL, "entries of 0 bytes", {"entry_len": LONGEST_STRUCT + 1}),
        (EINVAL, f"entries of {LONGEST_STRUCT + 1} bytes", {"entry_len": LONGEST_STRUCT, "data_uptr": 0}),
        (EINVAL, "at 0x0", {"data_uptr": DATA}),
        (ENOENT, f"there is no object {NO_ID}", {"hwpt_id": parent.id}),
        (EINVAL, "is neither a nested page table nor a vIOMMU", {"hwpt_id": ioas}),
        (EINVAL, "IOAS 1 is neither", {"hwpt_id": nested.id}),
        (EINVAL, "data of type 0x1", {"data_type": INVALIDATE_SELFTEST}),
        (EINVAL, f"{LONGEST_STRUCT} bytes of data, wanted: 8 to 8", {"entry_len": 8}),
    )
    assert answer.entry_num == 1
    fields: Fields = {"hwpt_id": nested.id, "data_uptr": DATA, "data_type": INVALIDATE_SELFTEST, "entry_len": 8}
    await client.send(
        "HWPT_INVALIDATE", entry_num=MOST_ENTRIES, expect=EFAULT, why="of the array cannot be read", **fields
    )
    await client.send(
        "HWPT_INVALIDATE", hwpt_id=NO_ID, read_only=True, expect=EFAULT, why="the struct cannot be written"
    )
    await client.send(
        "HWPT_INVALIDATE", entry_num=1, read_only=True, expect=EFAULT, why="the struct cannot be written", **fields
    )


async def test_invalidate_what_has_no_cache(client: Client, ioas: int) -> None:
    """A page table of a kind that caches nothing that a client could drop."""
    device = client.device(kind="smmuv3")
    viommu = await new_viommu(client, device, await alloc(client, device, ioas, PARENT))
    ste = data(client, struct.pack("<QQ", 1 | 4 << 1, 0), const("IOMMU_HWPT_DATA_ARM_SMMUV3"))  # bypass
    hwpt = await alloc(client, device, viommu.id, **ste)
    await invalidate(client, hwpt.id, bytes(8), done=0, expect=EOPNOTSUPP, why="no cache to invalidate")


async def test_invalidate_on_a_viommu(client: Client, ioas: int) -> None:
    """All of the array is read before anything is done. Entries may be longer, if zero there."""
    device = client.device()
    viommu, port = (await new_viommu(client, device, await alloc(client, device, ioas, PARENT))).id, device.port
    await client.send("VDEVICE_ALLOC", viommu_id=viommu, dev_id=device.id, virt_id=0x99)
    kind: Fields = {"data_type": INVALIDATE_VIOMMU_SELFTEST, "entry_len": 12}
    cache = getattr(port, "cache")  # noqa: B009  # of a mock's port
    assert cache == [CACHE_DEFAULT] * 4
    await invalidate(client, viommu, entries((0, 0x99, 2)), done=1, **kind)
    assert cache == [CACHE_DEFAULT, CACHE_DEFAULT, 0, CACHE_DEFAULT]
    await invalidate(
        client,
        viommu,
        entries((0, 0x99, 0), (0, 0x98, 1)),
        done=1,
        expect=EINVAL,
        why="entry 1 names device 0x98",
        **kind,
    )
    assert cache[0] == 0
    longer = kind | {"entry_len": 16}
    await invalidate(
        client, viommu, entries((0, 0x99, 1, 0), (0, 0x99, 3, 1)), done=0, expect=E2BIG, why="entry 1", **longer
    )
    assert cache == [0, CACHE_DEFAULT, 0, CACHE_DEFAULT]
    await invalidate(client, viommu, entries((0, 0x99, 1, 0)), done=1, **longer)
    assert cache[1] == 0
    client.memory.map(DATA + PAGE - 12, entries((INVALIDATE_ALL, 0x99, 0)))
    fields = kind | {"data_uptr": DATA + PAGE - 12}
    await invalidate(
        client, viommu, b"", count=2, done=0, expect=EFAULT, why="cannot be read beyond its first 12 bytes", **fields
    )
    assert cache[3] == CACHE_DEFAULT
