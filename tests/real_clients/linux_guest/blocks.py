"""The numbered records that guest/writer.c writes, and what must be on the disk after a kill.

Record N is at N * SLOT. Its length differs from N to N; each of its sectors holds the round, N and
the sector's number in the record, over and over again.
"""

import struct
from collections.abc import Collection
from typing import Final

SLOT: Final = 1 << 16  # bytes
SECTOR: Final = 512
_MAGIC: Final = 0x6D6D6F69


def record(round_: int, number: int) -> bytes:
    sectors = 1 + number * 37 % (SLOT // SECTOR)
    words = (struct.pack("<4I", _MAGIC, round_, number, sector) for sector in range(sectors))
    return b"".join(word * (SECTOR // len(word)) for word in words)


def judge(
    before: bytes | bytearray, after: bytes | bytearray, round_: int, told: Collection[int]
) -> tuple[list[str], int]:
    """What is wrong with a disk that held `before` when the round began; and how many more records
    are on it, whole or in part, than the guest was told of.

    Of each record that it was told of all is there. Any other sector is as it was, or as it was to
    be written.
    """
    if len(before) != len(after):
        return [f"the disk has {len(after)} bytes, and had {len(before)}"], 0
    wrong, begun = [], 0
    for number in range(len(after) // SLOT):
        at = number * SLOT
        old, found, new = before[at : at + SLOT], after[at : at + SLOT], record(round_, number)
        new += old[len(new) :]
        begun += found != old and number not in told
        if found == new or (found == old and number not in told):
            continue
        for sector in range(0, SLOT, SECTOR):
            seen, was, should = (each[sector : sector + SECTOR] for each in (found, old, new))
            if seen != should and (number in told or seen != was):
                what = "was said to be written" if number in told else "is neither old nor new"
                wrong.append(f"record {number}: sector {sector // SECTOR} {what}, and begins {seen[:16].hex(' ', 4)}")
    return wrong, begun
