"""What Identify tells: of the controller, of a namespace, which namespaces there are, and their
names.

Ref: NVM Express Base Specification 1.4 section 5.15
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack, pack_into
from typing import Final

from .namespace import FORMATS, OUI, Namespace
from .wire import (
    ALL_NAMESPACES,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    PAGE,
    VERSION,
    Failed,
)

NAMESPACE, CONTROLLER, ACTIVE_NAMESPACES, DESCRIPTORS = 0x00, 0x01, 0x02, 0x03  # CNS

MDTS: Final = 7  # the longest transfer, as a power of two of pages
MOST_TRANSFER: Final = PAGE << MDTS  # bytes
ASYNC_EVENTS: Final = 4  # requests that may be outstanding
ABORTS: Final = 4
ERROR_ENTRIES: Final = 64
WARNING_TEMPERATURE, CRITICAL_TEMPERATURE = 343, 353  # Kelvin
POWER_STATES: Final = ((500, 0, 0), (300, 10, 10), (100, 100, 100))  # centiwatts, microseconds to enter and leave

_FORMAT, _DOORBELL_BUFFER = 1 << 1, 1 << 8  # of OACS
_COMPARE, _DATASET, _ZEROES, _SAVE, _TIMESTAMP, _VERIFY = 1, 1 << 2, 1 << 3, 1 << 4, 1 << 6, 1 << 7  # of ONCS
_CACHE, _FLUSHES_ALL = 1, 3 << 1  # of VWC
_EFFECTS, _EXTENDED = 1 << 1, 1 << 2  # of LPA
_SGLS, _BIT_BUCKET = 1, 1 << 16
_ONE_SLOT_READ_ONLY: Final = 0x03  # of FRMW
_IO_CONTROLLER: Final = 1


@dataclass(frozen=True, slots=True)
class Names:
    """What a controller calls itself. `vendor`, `subsystem_vendor`: as in its configuration
    space.
    """

    vendor: int
    subsystem_vendor: int
    serial: str  # at most 20 characters
    model: str  # 40
    firmware: str  # 8


def identify(cns: int, nsid: int, names: Names, namespaces: Sequence[Namespace], *, shadows: bool) -> bytes:
    """4096 bytes. `shadows`: doorbells can be in memory. Failed: there is no such thing, or no
    such namespace.
    """
    if cns == CONTROLLER:
        return _controller(names, len(namespaces), shadows=shadows)
    if cns == ACTIVE_NAMESPACES:
        if nsid >= ALL_NAMESPACES - 1:
            raise Failed(INVALID_NAMESPACE)
        found = [each.nsid for each in namespaces if each.nsid > nsid]
        return pack(f"<{len(found)}I", *found).ljust(PAGE, b"\0")
    if cns not in (NAMESPACE, DESCRIPTORS):
        raise Failed(INVALID_FIELD)
    if not 1 <= nsid <= len(namespaces):
        raise Failed(INVALID_NAMESPACE)
    namespace = namespaces[nsid - 1]
    return _namespace(namespace) if cns == NAMESPACE else _descriptors(namespace)


def _controller(names: Names, count: int, *, shadows: bool) -> bytes:
    data = bytearray(PAGE)
    texts = (
        f"{text:<{width}}".encode("ascii")
        for text, width in ((names.serial, 20), (names.model, 40), (names.firmware, 8))
    )
    pack_into("<HH20s40s8s", data, 0, names.vendor, names.subsystem_vendor, *texts)
    data[73:76] = OUI[::-1]
    pack_into("<BHI", data, 77, MDTS, 0, VERSION)
    data[111] = _IO_CONTROLLER
    pack_into(
        "<HBBBBBB",
        data,
        256,
        _FORMAT | (_DOORBELL_BUFFER if shadows else 0),
        ABORTS - 1,
        ASYNC_EVENTS - 1,
        _ONE_SLOT_READ_ONLY,
        _EFFECTS | _EXTENDED,
        ERROR_ENTRIES - 1,
        len(POWER_STATES) - 1,
    )
    pack_into("<HH", data, 266, WARNING_TEMPERATURE, CRITICAL_TEMPERATURE)
    pack_into("<BBHI", data, 512, 0x66, 0x44, 0, count)
    pack_into(
        "<HHBB", data, 520, _COMPARE | _DATASET | _ZEROES | _SAVE | _TIMESTAMP | _VERIFY, 0, 0, _CACHE | _FLUSHES_ALL
    )
    pack_into("<I", data, 536, _SGLS | _BIT_BUCKET)
    nqn = f"nqn.2026-11.invalid.iommud:nvme:{names.serial.strip()}".encode("ascii")
    data[768 : 768 + len(nqn)] = nqn
    for state, (power, enter, leave) in enumerate(POWER_STATES):
        pack_into("<HHIIBBBB", data, 2048 + 32 * state, power, 0, enter, leave, state, state, state, state)
    return bytes(data)


def _namespace(namespace: Namespace) -> bytes:
    data = bytearray(PAGE)
    blocks = namespace.blocks
    pack_into("<QQQ", data, 0, blocks, blocks, blocks)
    data[25] = len(FORMATS) - 1
    data[26] = namespace.format
    data[33] = 0x09  # deallocated blocks read as zeros, and Write Zeroes can deallocate
    data[48:64] = namespace.size.to_bytes(16, "little")
    data[99] = namespace.disk.readonly
    data[104:120] = namespace.nguid
    data[120:128] = namespace.eui64
    for index, shift in enumerate(FORMATS):
        pack_into("<HBB", data, 128 + 4 * index, 0, shift, 0)
    return bytes(data)


def _descriptors(namespace: Namespace) -> bytes:
    named = ((1, namespace.eui64), (2, namespace.nguid), (3, namespace.uuid))
    return b"".join(pack("<BBxx", kind, len(name)) + name for kind, name in named).ljust(PAGE, b"\0")
