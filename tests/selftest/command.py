"""The test ioctl in few words."""

from typing import Any, NamedTuple

from iommud.uapi.header import const
from tests.ops.client import Client, Fields

# The member of the struct that goes with an operation, where it has another name.
_MEMBERS = {
    "MD_CHECK_MAP": "check_map",
    "MD_CHECK_REFS": "check_refs",
    "MD_CHECK_IOTLB": "check_iotlb",
    "DEV_CHECK_CACHE": "check_dev_cache",
    "SET_TEMP_MEMORY_LIMIT": "memory_limit",
    "PASID_CHECK_HWPT": "pasid_check",
}
_ABOUT = {"expect", "why", "at", "read_only", "caller"}


async def do(client: Client, operation: str, number: int = 0, **fields: Any) -> Any:
    """An operation on the object or descriptor `number`: fields of its own, and how it is to end
    (see Client.send). Its part of the struct, as the client has it afterwards.
    """
    member = _MEMBERS.get(operation, operation.lower())
    about: Fields = {name: fields.pop(name) for name in _ABOUT & set(fields)}
    about[member] = fields
    sent = await client.send("TEST_CMD", op=const(f"IOMMU_TEST_OP_{operation}"), id=number, **about)
    return getattr(sent, member)


class Mock(NamedTuple):
    """A device of the test ioctl's, as a client has it."""

    stdev: int
    hwpt: int
    idev: int


async def new_mock(client: Client, pt: int, flags: int = 0) -> Mock:
    made = await do(client, "MOCK_DOMAIN_FLAGS", pt, dev_flags=flags)
    return Mock(made.out_stdev_id, made.out_hwpt_id, made.out_idev_id)
