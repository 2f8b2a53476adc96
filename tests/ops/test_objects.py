"""DESTROY. Ref: v7.3 main.c iommufd_destroy, iommufd_object_remove"""

from errno import EBUSY, ENOENT

from tests.engine.fakes import FakeUser
from tests.engine.world import stand

from .client import NO_ID, Client
from .made import new_viommu, with_page


async def test_destroy_makes_room_for_another(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0)
    await client.send("DESTROY", id=ioas, read_only=True)
    assert client.caller.process.refs == 0
    await client.send("DESTROY", id=ioas, expect=ENOENT, why="there is no object 1")
    await client.send("DESTROY", id=0, expect=ENOENT, why="there is no object 0")
    await client.send("DESTROY", id=NO_ID, expect=ENOENT)
    await client.send("DESTROY", id=0xFFFF_FFFF, expect=ENOENT)
    assert await client.new_ioas() == ioas


async def test_destroy_of_what_is_used_says_by_what(client: Client) -> None:
    ioas = await client.new_ioas()
    device = client.device(attach=ioas)
    assert device.group.hwpt is not None
    await client.send("DESTROY", id=ioas, expect=EBUSY, why=f"IOAS 1 is in use by HWPT {device.group.hwpt.id}")
    await client.send("DESTROY", id=device.group.hwpt.id, expect=EBUSY, why="in use by device 2")
    await client.send("DESTROY", id=device.id, expect=EBUSY, why="in use by")
    client.remove(device)
    user = FakeUser(client.context)
    stand(user, client.object(ioas))
    await client.send("DESTROY", id=ioas, expect=EBUSY, why="IOAS 1 is in use by access 2")
    await client.send("DESTROY", id=user.access.id, expect=EBUSY)
    user.release()
    await client.send("DESTROY", id=ioas)


async def test_destroy_while_a_request_runs(client: Client) -> None:
    ioas = await client.new_ioas()
    with client.context.objects.using(client.object(ioas), "a request"):
        await client.send("DESTROY", id=ioas, expect=EBUSY, why="a request is running on IOAS 1")
    await client.send("DESTROY", id=ioas)


async def test_destroy_of_what_is_not_published_yet(client: Client) -> None:
    ioas = await client.new_ioas()
    client.context.objects.reserve(made := type(client.object(ioas))(client.host))
    await client.send("DESTROY", id=made.id, expect=ENOENT)
    client.context.objects.abort(made)


async def test_destroy_of_a_viommu_whose_page_is_mapped(client: Client) -> None:
    """Only of its own range, only of one that has a range, and not before its users."""
    client.host.shown.announce = lambda offset, content: None
    plain, viommu = await new_viommu(client), await new_viommu(client, **with_page(client))
    assert viommu.driver.shown is not None
    offset, length = viommu.driver.shown
    client.caller.mapped.add((offset, length))
    await client.send("DESTROY", id=plain.id)
    viommu.users.append("a queue")
    await client.send("DESTROY", id=viommu.id, expect=EBUSY, why=f"{viommu} is in use by a queue")
    viommu.users.remove("a queue")
    await client.send(
        "DESTROY", id=viommu.id, expect=EBUSY, why=f"{viommu} is in use by a mapping at {offset:#x} of the file"
    )
    await client.send("DESTROY", id=viommu.hwpt.id, expect=EBUSY, why=f"in use by {viommu}")
    client.caller.mapped.clear()
    await client.send("DESTROY", id=viommu.id)
    assert len(client.host.shown) == 0
