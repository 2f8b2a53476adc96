"""IOAS_CHANGE_PROCESS: what is mapped is charged to who calls. Ref: v7.3 ioas.c
iommufd_ioas_change_process
"""

from errno import EBUSY, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP

import pytest

from iommud.engine.memory.origin import AccountMode
from iommud.ops.ioas import CAP_IPC_LOCK
from iommud.selftest.mock_domains import APERTURE_START

from .client import FIXED, RW, Client, Fields
from .twins import PAGE, TwinCaller

HEIR = "heir"


async def shown(client: Client, *, pages: int = 2) -> int:
    """An IOAS that shows pages of a file to a device, from APERTURE_START on."""
    ioas = await client.new_ioas()
    client.device(attach=ioas)
    await map_file(client, ioas, APERTURE_START, pages)
    return ioas


async def map_file(client: Client, ioas: int, iova: int, pages: int = 1) -> None:
    if 7 not in client.caller.files:
        client.file(7)
    fields: Fields = {"flags": FIXED | RW, "ioas_id": ioas, "fd": 7, "length": pages * PAGE, "iova": iova}
    await client.send("IOAS_MAP_FILE", **fields)


def origins(client: Client, ioas: int) -> list[object]:
    return [pages.origin.mm for pages in client.pages(ioas)]


async def test_nothing_mapped_is_nothing_to_move(client: Client) -> None:
    await client.send("IOAS_CHANGE_PROCESS")
    await client.new_ioas()
    client.device()
    await client.send("IOAS_CHANGE_PROCESS", read_only=True)
    await client.send("IOAS_CHANGE_PROCESS", __reserved=1, expect=EOPNOTSUPP, why="__reserved is not 0")


async def test_pins_are_charged_to_the_caller(client: Client) -> None:
    """The user's count stays, if it is his; a process's goes to the other one."""
    client.context.set_rlimit_mode(1)
    ioas = await shown(client)
    other = await client.new_ioas()
    await map_file(client, other, 0)
    heir = TwinCaller(HEIR)
    assert client.host.process_pages == {client.caller.process.mm: 2}
    await client.send("IOAS_CHANGE_PROCESS", caller=heir)
    assert client.host.process_pages == {HEIR: 2}
    assert (origins(client, ioas), origins(client, other)) == ([HEIR], [HEIR])
    assert client.caller.files[7].refs == 0
    assert sum(origin.refs for origin in client.origins.given) == 2, "by the pages, and by nobody else"
    await client.send("IOAS_CHANGE_PROCESS", caller=heir)
    assert client.host.process_pages == {HEIR: 2}


async def test_of_the_same_user_only_the_process_changes(client: Client) -> None:
    ioas = await shown(client)
    heir = TwinCaller(HEIR)
    heir.process.uid = 1001
    assert client.host.user_pages == {client.caller.process.uid: 2}
    await client.send("IOAS_CHANGE_PROCESS", caller=heir)
    assert client.host.user_pages == {1001: 2}
    await client.send("IOAS_CHANGE_PROCESS", caller=client.caller)
    assert client.host.user_pages == {client.caller.process.uid: 2}
    assert origins(client, ioas) == [client.caller.process.mm]


async def test_pages_that_stand_in_several_places_are_charged_once(client: Client) -> None:
    ioas = await shown(client)
    fields: Fields = {
        "flags": RW,
        "src_ioas_id": ioas,
        "dst_ioas_id": ioas,
        "src_iova": APERTURE_START,
        "length": 2 * PAGE,
    }
    await client.send("IOAS_COPY", **fields)
    heir = TwinCaller(HEIR)
    heir.process.uid, heir.process.limit = 1001, 2 * PAGE
    await client.send("IOAS_CHANGE_PROCESS", caller=heir)
    assert client.host.user_pages == {1001: 2}


async def test_what_is_not_charged_moves_all_the_same(client: Client) -> None:
    client.caller.capabilities.add(CAP_IPC_LOCK)
    ioas = await shown(client)
    heir = TwinCaller(HEIR)
    heir.process.limit = 0
    await client.send("IOAS_CHANGE_PROCESS", caller=heir)
    assert origins(client, ioas) == [HEIR]
    assert [pages.account_mode for pages in client.pages(ioas)] == [AccountMode.NONE]


@pytest.mark.parametrize("mode", [0, 1])
async def test_more_than_the_caller_may_have_pinned(client: Client, mode: int) -> None:
    """Then nothing has moved. What stays with the same user counts twice meanwhile."""
    client.context.set_rlimit_mode(mode)
    ioas = await shown(client)
    heir = TwinCaller(HEIR)
    heir.process.limit = 3 * PAGE if mode == 0 else 2 * PAGE - 1
    await client.send("IOAS_CHANGE_PROCESS", caller=heir, expect=ENOMEM, why="RLIMIT_MEMLOCK allows")
    assert origins(client, ioas) == [client.caller.process.mm]
    assert client.host.user_pages == ({client.caller.process.uid: 2} if mode == 0 else {})
    assert client.host.process_pages == ({client.caller.process.mm: 2} if mode == 1 else {})
    heir.process.limit = 4 * PAGE
    await client.send("IOAS_CHANGE_PROCESS", caller=heir)
    assert origins(client, ioas) == [HEIR]


async def test_memory_cannot_move(client: Client) -> None:
    """IOAS after IOAS, by their IDs: the first thing that cannot move decides."""
    first, second = await client.new_ioas(), await client.new_ioas()
    await map_file(client, first, 0)
    await client.map(second, PAGE)
    heir = TwinCaller(HEIR)
    await client.send(
        "IOAS_CHANGE_PROCESS", caller=heir, expect=EINVAL, why="the area 0x1000..0x1fff of IOAS 2 is not of a file"
    )
    (area,) = client.table(first).areas
    pages, area.pages = area.pages, None
    await client.send("IOAS_CHANGE_PROCESS", caller=heir, expect=EBUSY, why="IOAS 1 is being mapped or unmapped")
    area.pages = pages
    assert origins(client, first) == [client.caller.process.mm]


async def test_a_caller_that_died(client: Client) -> None:
    ioas = await shown(client)
    heir = TwinCaller(HEIR)
    heir.gone = True
    await client.send("IOAS_CHANGE_PROCESS", caller=heir, expect=EFAULT, why="out of reach")
    assert origins(client, ioas) == [client.caller.process.mm]
