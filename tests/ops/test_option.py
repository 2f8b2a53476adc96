"""OPTION. Ref: v7.3 main.c iommufd_option, ioas.c iommufd_ioas_option"""

from errno import EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EPERM

import pytest
import trio
import trio.testing

from iommud.engine.memory.origin import AccountMode
from iommud.ops.locking import locked
from iommud.ops.option import CAP_SYS_RESOURCE
from iommud.selftest.mock_domains import APERTURE_START
from iommud.uapi.header import const, fields

from .client import AT, NO_ID, Client, Fields
from .twins import PAGE

RLIMIT_MODE, HUGE_PAGES = const("IOMMU_OPTION_RLIMIT_MODE"), const("IOMMU_OPTION_HUGE_PAGES")
SET, GET = const("IOMMU_OPTION_OP_SET"), const("IOMMU_OPTION_OP_GET")


async def get(client: Client, option: int, number: int = 0) -> int:
    answer = await client.send("OPTION", option_id=option, op=GET, object_id=number, val64=7)
    return int(answer.val64)


async def set_(client: Client, option: int, value: int, number: int = 0, *, expect: int = 0, why: str = "") -> None:
    answer = await client.send(
        "OPTION", option_id=option, op=SET, object_id=number, val64=value, expect=expect, why=why
    )
    assert answer.val64 == value


async def test_rlimit_mode(client: Client) -> None:
    client.caller.capabilities.add(CAP_SYS_RESOURCE)
    assert await get(client, RLIMIT_MODE) == 0
    await set_(client, RLIMIT_MODE, 1)
    assert (await get(client, RLIMIT_MODE), client.context.account_mode) == (1, AccountMode.MM)
    await set_(client, RLIMIT_MODE, 0)
    assert (await get(client, RLIMIT_MODE), client.context.account_mode) == (0, AccountMode.USER)


async def test_rlimit_mode_is_set_once_and_for_all(client: Client) -> None:
    client.caller.capabilities.add(CAP_SYS_RESOURCE)
    await set_(client, RLIMIT_MODE, 1)
    ioas = await client.new_ioas()
    await set_(client, RLIMIT_MODE, 0, expect=EBUSY, why="it has 1 objects")
    assert await get(client, RLIMIT_MODE) == 1, "asking is not setting"
    await client.send("DESTROY", id=ioas)
    await set_(client, RLIMIT_MODE, 0)


async def test_rlimit_mode_in_the_kernels_order(client: Client) -> None:
    device = client.device()
    await client.refuse_in_order(
        "OPTION",
        {"option_id": NO_ID, "op": 7, "__reserved": 1, "object_id": 1, "val64": 2},
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (EOPNOTSUPP, f"there is no option {NO_ID}", {"option_id": RLIMIT_MODE}),
        (EOPNOTSUPP, "RLIMIT_MODE is global; object_id is 1", {"object_id": 0}),
        (EOPNOTSUPP, "op 7 is neither", {"op": SET}),
        (EPERM, "RLIMIT_MODE is set with CAP_SYS_RESOURCE", lambda: client.caller.capabilities.add(CAP_SYS_RESOURCE)),
        (EBUSY, "it has 1 objects", lambda: client.remove(device)),
        (EINVAL, "RLIMIT_MODE 2 is neither 0 nor 1", {"val64": 1}),
    )
    assert client.context.account_mode == AccountMode.MM


async def test_huge_pages(client: Client) -> None:
    ioas, other = await client.new_ioas(), await client.new_ioas()
    assert await get(client, HUGE_PAGES, ioas) == 1
    await set_(client, HUGE_PAGES, 0, ioas)
    assert (await get(client, HUGE_PAGES, ioas), await get(client, HUGE_PAGES, other)) == (0, 1)
    assert (client.table(ioas).iova_alignment, client.table(other).iova_alignment) == (PAGE, 1)
    await set_(client, HUGE_PAGES, 1, ioas)
    assert (await get(client, HUGE_PAGES, ioas), client.table(ioas).iova_alignment) == (1, 1)


async def test_huge_pages_and_what_is_mapped(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0x800, 0x800)
    await set_(
        client,
        HUGE_PAGES,
        0,
        ioas,
        expect=EADDRINUSE,
        why="the area 0x800..0xfff does not conform to an alignment of 0x1000",
    )
    assert await get(client, HUGE_PAGES, ioas) == 1
    await client.send("IOAS_UNMAP", ioas_id=ioas, iova=0x800, length=0x800)
    await client.map(ioas, APERTURE_START)
    device = client.device(attach=ioas)
    await set_(client, HUGE_PAGES, 0, ioas, expect=EINVAL, why="1 areas are mapped in page tables already")
    client.remove(device)
    await set_(client, HUGE_PAGES, 0, ioas)
    await set_(client, HUGE_PAGES, 0, ioas)


async def test_huge_pages_in_the_kernels_order(client: Client) -> None:
    """No capability is asked for."""
    ioas = await client.new_ioas()
    client.device()
    await client.map(ioas, 1, 1)
    await client.refuse_in_order(
        "OPTION",
        {"option_id": HUGE_PAGES, "op": 7, "__reserved": 1, "object_id": NO_ID, "val64": 2},
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (ENOENT, f"there is no object {NO_ID}", {"object_id": 2}),
        (ENOENT, "object 2 is of kind device", {"object_id": ioas}),
        (EOPNOTSUPP, "op 7 is neither", {"op": SET}),
        (EINVAL, "HUGE_PAGES 2 is neither 0 nor 1", {"val64": 0}),
        (EADDRINUSE, "does not conform", {"val64": 1}),
    )


@pytest.mark.parametrize("op", [GET, SET])
async def test_an_answer_that_cannot_be_written(client: Client, op: int) -> None:
    """Only the value is written, also after SET; what was set stays so."""
    ioas = await client.new_ioas()
    at = AT + fields("iommu_option")["val64"].offset
    numbers: Fields = {"option_id": HUGE_PAGES, "op": op, "object_id": ioas}
    await client.send("OPTION", read_only=True, expect=EFAULT, why=f"val64 cannot be written at {at:#x}", **numbers)
    assert await get(client, HUGE_PAGES, ioas) == (0 if op == SET else 1)


async def test_huge_pages_waits_for_the_lock(client: Client) -> None:
    ioas = await client.new_ioas()
    async with trio.open_nursery() as nursery, locked(client.object(ioas)):
        nursery.start_soon(set_, client, HUGE_PAGES, 0, ioas)
        await trio.testing.wait_all_tasks_blocked()
        assert client.table(ioas).large_pages
    assert not client.table(ioas).large_pages
