"""GET_HW_INFO. Ref: v7.3 device.c iommufd_get_hw_info"""

from errno import EFAULT, ENOENT, EOPNOTSUPP
from typing import Any

import pytest

from iommud.engine.device.device import Device
from iommud.iommus.plain import PlainIommu
from iommud.models.null import NullDevice
from iommud.ops.hw_info import ZEROS_AT_ONCE
from iommud.selftest.mock import HW_INFO, HW_INFO_SELFTEST
from iommud.selftest.plug import NO_DIRTY, PASIDS
from iommud.uapi.header import const, struct_size

from .client import NO_ID, Client, Fields
from .twins import PAGE

ROOM = 0x2000_0000
INPUT_TYPE = const("IOMMU_HW_INFO_FLAG_INPUT_TYPE")
DIRTY, EXEC, PRIV, NO_ATS = (
    const(f"IOMMU_HW_CAP_{name}")
    for name in ("DIRTY_TRACKING", "PCI_PASID_EXEC", "PCI_PASID_PRIV", "PCI_ATS_NOT_SUPPORTED")
)


async def info(client: Client, device: Device, room: int = 0, **fields: Any) -> Any:
    return await client.send("GET_HW_INFO", dev_id=device.id, data_len=room, data_uptr=ROOM, **fields)


async def test_without_room_the_length_is_told(client: Client) -> None:
    """And the room is not looked at."""
    answer = await info(client, client.device())
    assert (answer.out_data_type, answer.data_len) == (HW_INFO_SELFTEST, len(HW_INFO))


@pytest.mark.parametrize("room", [1, len(HW_INFO) - 1, len(HW_INFO), len(HW_INFO) + 1, 100])
async def test_the_data_goes_as_far_as_there_is_room(client: Client, room: int) -> None:
    """The rest of the room is zeroed; what lies behind stays."""
    client.memory.map(ROOM, b"\xee" * 128)
    answer = await info(client, client.device(), room)
    assert answer.data_len == len(HW_INFO)
    assert client.memory.read(ROOM, 128) == HW_INFO[:room].ljust(room, b"\0") + b"\xee" * (128 - room)


@pytest.mark.parametrize(
    ("kind", "flags", "capabilities", "width"),
    [
        ("mock", 0, DIRTY | NO_ATS, 0),
        ("mock", NO_DIRTY, NO_ATS, 0),
        ("mock", PASIDS, DIRTY | NO_ATS, 20),
        ("vtd", 0, DIRTY | NO_ATS, 0),
        ("vtd", PASIDS, DIRTY | EXEC | PRIV, 20),
        ("smmuv3", PASIDS | NO_DIRTY, EXEC | PRIV, 20),
        ("amd", PASIDS, DIRTY, 15),
    ],
)
async def test_what_device_and_iommu_can_do(
    client: Client, kind: str, flags: int, capabilities: int, width: int
) -> None:
    answer = await info(client, client.device(kind=kind, flags=flags))
    assert (answer.out_capabilities, answer.out_max_pasid_log2) == (capabilities, width)


async def test_the_type_can_be_asked_for(client: Client) -> None:
    """Without the flag what stands there is not looked at."""
    device = client.device(kind="vtd")
    vtd = const("IOMMU_HW_INFO_TYPE_INTEL_VTD")
    for fields in (
        {"in_data_type": 77},
        {"flags": INPUT_TYPE, "in_data_type": 0},
        {"flags": INPUT_TYPE, "in_data_type": vtd},
    ):
        answer = await info(client, device, **fields)
        assert (answer.out_data_type, answer.data_len) == (vtd, struct_size("iommu_hw_info_vtd"))
    refused: Fields = {"expect": EOPNOTSUPP, "why": "VT-d has nothing to tell of type 0x4d"}
    answer = await info(client, device, 9, flags=INPUT_TYPE, in_data_type=77, **refused)
    assert (answer.in_data_type, answer.data_len) == (77, 9)


async def test_an_iommu_that_tells_nothing(client: Client) -> None:
    null = NullDevice(client.context, PlainIommu())
    client.memory.map(ROOM, b"\xee" * 4)
    answer = await info(client, null.device, 3)
    assert (answer.out_data_type, answer.data_len, answer.out_capabilities) == (0, 0, NO_ATS)
    assert client.memory.read(ROOM, 4) == b"\0\0\0\xee"
    null.remove()


async def test_in_the_kernels_order(client: Client) -> None:
    ioas, device, plain = await client.new_ioas(), client.device(), client.device(kind="none")
    wrong: Fields = {"flags": 2, "dev_id": NO_ID, "data_len": 8, "data_uptr": ROOM + PAGE - 4, "__reserved": b"\0\0\1"}
    client.memory.map(ROOM)
    answer = await client.refuse_in_order(
        "GET_HW_INFO",
        wrong,
        (EOPNOTSUPP, "unknown bits 0x2", {"flags": 0}),
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": b"\0\0\0"}),
        (ENOENT, f"there is no object {NO_ID}; wanted: device", {"dev_id": ioas}),
        (ENOENT, "object 1 is of kind IOAS", {"dev_id": plain.id}),
        (EOPNOTSUPP, "there is no IOMMU", {"dev_id": device.id}),
        (EFAULT, f"the data cannot be written at {ROOM + PAGE:#x}", {"data_uptr": ROOM}),
    )
    assert answer.data_len == len(HW_INFO)


async def test_room_that_ends_early(client: Client) -> None:
    """What could be written stays, and the struct is as it was."""
    device = client.device()
    client.memory.map(ROOM, b"\xee" * PAGE)
    refused: Fields = {"expect": EFAULT, "why": f"the rest of the room cannot be written at {ROOM + PAGE:#x}"}
    answer = await info(client, device, PAGE + 1, **refused)
    assert (answer.data_len, answer.out_data_type) == (PAGE + 1, 0)
    assert client.memory.read(ROOM, PAGE) == HW_INFO.ljust(PAGE, b"\0")
    client.memory.map(ROOM, bytes(8))
    await info(client, device, 8, read_only=True, expect=EFAULT, why="the struct cannot be written")
    assert client.memory.read(ROOM, 8) == HW_INFO


async def test_much_room_is_zeroed_in_parts(client: Client) -> None:
    """Each is waited for; between two others have their turn."""
    device = client.device()
    room = 2 * ZEROS_AT_ONCE + 100
    client.memory.map(ROOM, b"\xee" * (room + 1))
    left: list[bytes] = []
    start = ROOM + len(HW_INFO)
    client.when_left = lambda: left.append(client.memory.read(start + ZEROS_AT_ONCE - 1, 2))
    await info(client, device, room)
    assert (left, client.pauses) == ([b"\0\xee"], 2)
    assert client.memory.read(ROOM, room + 1) == HW_INFO.ljust(room, b"\0") + b"\xee"
    client.when_left = lambda: None
    client.memory.make_slow(ROOM, room)
    await info(client, device, room)
    assert client.caller.waits == [(ROOM, len(HW_INFO)), (start, ZEROS_AT_ONCE), (start + ZEROS_AT_ONCE, ZEROS_AT_ONCE)]
