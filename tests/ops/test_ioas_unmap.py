"""IOAS_UNMAP. Ref: v7.3 ioas.c, io_pagetable.c iopt_unmap_iova_range"""

from errno import (
    EDEADLK,
    EFAULT,
    EINVAL,
    ENOENT,
    EOVERFLOW,
)

from iommud.engine.memory.span import U64_MAX
from iommud.ops.ioas import UNMAP_AT_ONCE, UNMAP_TRIES
from iommud.selftest.mock_domains import APERTURE_START
from tests.engine.fakes import FakeUser
from tests.engine.world import stand

from .client import FIXED, NO_ID, Client, Fields, R
from .twins import PAGE

MIB = 1 << 20
VA = 0x7000_0000  # where the client's memory begins
ARRAY = 0x2000_0000  # where it has arrays


async def unmap(client: Client, ioas: int, iova: int, length: int, *, expect: int = 0, why: str = "") -> int:
    """What it says that it unmapped; the given length when it is refused."""
    answer = await client.send("IOAS_UNMAP", ioas_id=ioas, iova=iova, length=length, expect=expect, why=why)
    return int(answer.length)


async def test_unmap_takes_whole_areas(client: Client) -> None:
    ioas = await client.new_ioas()
    for iova in (0, PAGE, 4 * PAGE, U64_MAX - PAGE + 1):
        await client.map(ioas, iova)
    assert await unmap(client, ioas, 0, 4 * PAGE) == 2 * PAGE
    assert await unmap(client, ioas, 4 * PAGE - 1, PAGE + 2) == PAGE, "with a byte more on either side"
    assert client.areas(ioas) == [(U64_MAX - PAGE + 1, PAGE)]
    assert await unmap(client, ioas, 0, U64_MAX) == PAGE
    assert await unmap(client, ioas, 0, U64_MAX) == 0, "all of nothing"
    assert await unmap(client, ioas, 0, PAGE, expect=ENOENT, why="nothing is mapped in 0x0..0xfff") == PAGE
    assert client.caller.process.refs == 0


async def test_unmap_of_a_part(client: Client) -> None:
    """What lies before the area that is refused has gone."""
    ioas = await client.new_ioas()
    await client.map(ioas, 0)
    await client.map(ioas, PAGE, 2 * PAGE)
    assert (
        await unmap(client, ioas, 0, 2 * PAGE, expect=ENOENT, why="the area 0x1000..0x2fff reaches out of") == 2 * PAGE
    )
    assert client.areas(ioas) == [(PAGE, 2 * PAGE)]
    await unmap(client, ioas, 2 * PAGE, PAGE, expect=ENOENT, why="reaches out of 0x2000..0x2fff")


async def test_unmap_lets_devices_see_nothing(client: Client) -> None:
    ioas = await client.new_ioas()
    client.device(attach=ioas)
    await client.map(ioas, APERTURE_START, 2 * PAGE)
    assert client.host.user_pages == {client.caller.process.uid: 2}
    await unmap(client, ioas, APERTURE_START, 2 * PAGE)
    assert client.host.user_pages == {}
    assert client.caller.process.pins == []
    assert client.table(ioas).translate(APERTURE_START) is None


async def test_unmap_in_the_kernels_order(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, PAGE)
    answer = await client.refuse_in_order(
        "IOAS_UNMAP",
        {"ioas_id": NO_ID, "iova": U64_MAX, "length": 0},
        (ENOENT, f"there is no object {NO_ID}", {"ioas_id": ioas}),
        (EOVERFLOW, "is U64_MAX", {"iova": 1, "length": U64_MAX}),
        (EOVERFLOW, "is U64_MAX", {"iova": U64_MAX - 1, "length": 0}),
        (EINVAL, "length is 0", {"length": 3}),
        (EOVERFLOW, "is beyond 2^64 - 1", {"iova": 2 * PAGE}),
        (ENOENT, "nothing is mapped in 0x2000..0x2002", {"iova": PAGE + 1}),
        (ENOENT, "reaches out", {"iova": 2, "length": U64_MAX - 1}),
    )
    assert answer.length == PAGE
    await client.map(ioas, PAGE)
    fields: Fields = {"ioas_id": ioas, "iova": PAGE, "length": PAGE}
    await client.send("IOAS_UNMAP", read_only=True, expect=EFAULT, why="the struct cannot be written", **fields)
    assert client.areas(ioas) == [], "it went all the same"


async def test_unmap_asks_accesses_to_let_go(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0, 2 * PAGE)
    await client.map(ioas, 2 * PAGE, PAGE)
    user = FakeUser(client.context)
    stand(user, client.object(ioas))
    user.pin(PAGE, 2 * PAGE)
    assert await unmap(client, ioas, 0, 2 * PAGE) == 2 * PAGE
    assert user.asked == [(0, 2 * PAGE)]
    assert client.areas(ioas) == [(2 * PAGE, PAGE)]
    assert client.host.user_pages == {}
    user.release()


async def test_unmap_of_what_an_access_does_not_let_go(client: Client) -> None:
    """It is asked again and again, but not for ever; what was unmapped before stays unmapped, and
    is not told.
    """
    ioas = await client.new_ioas()
    await client.map(ioas, 0, PAGE)
    await client.map(ioas, PAGE, PAGE)
    user = FakeUser(client.context)
    stand(user, client.object(ioas))
    user.pin(PAGE, PAGE)
    user.stubborn = True
    assert (
        await unmap(client, ioas, 0, 2 * PAGE, expect=EDEADLK, why="the area 0x1000..0x1fff stays pinned by")
        == 2 * PAGE
    )
    assert user.asked == [(PAGE, PAGE)] * (UNMAP_TRIES + 1)
    assert client.areas(ioas) == [(PAGE, PAGE)]
    user.release()


async def test_unmap_counts_its_tries_anew_for_each_area(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0, PAGE)
    await client.map(ioas, PAGE, PAGE)
    user = FakeUser(client.context)
    stand(user, client.object(ioas))
    for iova in (0, PAGE):
        user.pin(iova, PAGE)
    user.stubborn = True

    def lets_go_late() -> None:
        if len(user.asked) % 80 == 0:
            user.unpin(*user.asked[-1])

    user.during = lets_go_late
    assert await unmap(client, ioas, 0, 2 * PAGE) == 2 * PAGE
    assert user.asked == [(0, PAGE)] * 80 + [(PAGE, PAGE)] * 80
    user.release()


async def test_unmap_of_very_many_gives_way(client: Client) -> None:
    ioas = await client.new_ioas()
    count = UNMAP_AT_ONCE + 10
    fields: Fields = {"flags": FIXED | R, "ioas_id": ioas, "user_va": VA, "length": 16}
    for at in range(count):
        await client.send("IOAS_MAP", iova=16 * at, **fields)
    left: list[int] = []

    def look() -> None:
        client.cannot_go(ioas)
        left.append(len(client.areas(ioas)))

    client.when_left = look
    assert await unmap(client, ioas, 0, U64_MAX) == 16 * count
    assert (left, client.pauses) == ([10], 1)
