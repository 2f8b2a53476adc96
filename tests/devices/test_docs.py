"""What docs/devices.md shows is run."""

import re
from errno import EINVAL
from pathlib import Path
from typing import Any

import pytest

from tests.engine.fakes import P, errno_of, map_, unmap_range
from tests.engine.world import World
from tests.pci.kit import Rig
from tests.support import ROOT

from .harness import client, serving

PAGE = 4096
DOCUMENT = (ROOT / "docs" / "devices.md").read_text()


@pytest.fixture
def doorbell() -> Any:
    """The class of the text."""
    return class_of_the_text("Doorbell")


def class_of_the_text(name: str) -> Any:
    [code] = [code for code in re.findall(r"(?ms)^```python\n(.*?)^```$", DOCUMENT) if f"class {name}" in code]
    names: dict[str, Any] = {}
    exec(code, names)
    return names[name]


def test_the_adder() -> None:
    [lines] = re.findall(r"(?ms)^```\n(rig = .*?)^```$", DOCUMENT)
    names: dict[str, Any] = {"Rig": Rig, "map_": map_, "P": P, "Adder": class_of_the_text("Adder")}
    exec(lines, names)
    rig = names["rig"]
    rig.store(0, 0x08, 4, 0x2000)  # more than is mapped
    rig.clock.pass_()
    assert (rig.table[10].take(), rig.load(0, 0x10, 8)) == (1, 0xFFFFFFFFFFFFFFFF)
    rig.store(0, 0x08, 4, 0x1000)
    rig.vfio.reset()
    rig.clock.pass_()
    assert (rig.table[10].take(), rig.load(0, 0x10, 8)) == (0, 0)


async def test_the_doorbell(doorbell: Any) -> None:
    world = World()
    ioas, origin = world.ioas(), world.origin()
    map_(ioas, origin, 0, 2 * P, 0x10000)
    bell = doorbell(world.context, 0x11000)
    await bell.access.attach(ioas.id)
    origin.fill(P, b"\xfe")
    for expect in (b"\xff", b"\0", b"\1"):
        bell.ring()
        assert origin.read(P, 1) == expect
    assert origin.open_pins() == {1: 1}
    assert await unmap_range(ioas, 0x10000, 0x11FFF) == 2 * P
    assert origin.pins == []
    map_(ioas, origin, 8 * P, P, 0x11000)
    bell.ring()
    assert origin.open_pins() == {8: 1}
    await bell.remove()
    assert origin.pins == []
    world.close()


async def test_a_driver_that_does_not_pin(doorbell: Any) -> None:
    world = World()
    ioas, origin = world.ioas(), world.origin()
    map_(ioas, origin, 100, 100, 7)
    bell = doorbell(world.context, 7)
    bell.pins = False
    bell.access.iova_alignment = 1
    await bell.access.attach(ioas.id)
    assert errno_of(bell.ring) == EINVAL
    await bell.remove()
    world.close()


@pytest.mark.usefixtures("root")
async def test_the_doorbell_of_a_live_client(doorbell: Any, tmp_path: Path) -> None:
    async with serving(tmp_path) as served, client(served.path) as tell:
        ioas = await tell("ioas_alloc()")
        await tell(f"map_new('bell', {ioas}, 0x100000, b'a')")
        bell = doorbell(served.contexts[0], 0x10_0000)
        await bell.access.attach(ioas)
        bell.ring()
        assert bell.page is not None
        assert await tell("memory['bell'][:2]") == b"b\0"
        # The client's ioctl returns when the bell has let go.
        assert await tell(f"unmap({ioas}, 0x100000, {PAGE})") == "done"
        assert bell.page is None
        assert list(served.host.all_pinned()) == []
        await bell.remove()


@pytest.mark.usefixtures("root")
async def test_the_lines_that_plug_it_in(tmp_path: Path) -> None:
    [lines] = re.findall(r"(?ms)^```\n(async with serving.*?)^```$", DOCUMENT)
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    names: dict[str, Any] = {}
    exec(
        "from iommud.iommus.plain import PlainIommu\n"
        "from iommud.models.null import NullDevice\n"
        "from tests.devices.harness import attach, client, serving\n"
        f"async def plug(directory):\n{body}        return await tell('memory[\"memory\"][0x7ff:0x80b]')\n",
        names,
    )
    assert await names["plug"](tmp_path) == b"\x000123456789\0"


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((\.\./[^)]*)\)", DOCUMENT)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
