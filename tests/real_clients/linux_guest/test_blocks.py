"""The judge of a disk after a kill: what it lets pass, and what it does not."""

from collections.abc import Callable

import pytest

from .blocks import SECTOR, SLOT, judge, record

ROUND = 3
SLOTS = 4


def disk(*records: int, round_: int = ROUND) -> bytearray:
    """One on which these are whole, and else nothing is."""
    made = bytearray(SLOTS * SLOT)
    for number in records:
        content = record(round_, number)
        made[number * SLOT : number * SLOT + len(content)] = content
    return made


def test_records_differ_in_every_sector() -> None:
    """From other records, rounds, places, and from nothing."""
    sectors = [
        content[at : at + SECTOR]
        for content in (record(1, 1), record(1, 2), record(2, 1))
        for at in range(0, len(content), SECTOR)
    ]
    assert len({*sectors, bytes(SECTOR)}) == len(sectors) + 1


def test_what_was_told_is_there() -> None:
    assert judge(disk(), disk(0, 1), ROUND, {0, 1}) == ([], 0)


def test_what_was_not_told_may_be_there_or_not_or_half() -> None:
    half = disk(0, 1, 2)
    half[2 * SLOT + SECTOR : 3 * SLOT] = bytes(SLOT - SECTOR)
    assert judge(disk(), half, ROUND, {0}) == ([], 2)


def test_an_older_round_stays_where_nothing_is_written() -> None:
    before, after = disk(0, 1, 2, 3, round_=ROUND - 1), disk(0, 1, 2, 3, round_=ROUND - 1)
    after[:SLOT] = disk(0)[: len(record(ROUND, 0))] + before[len(record(ROUND, 0)) : SLOT]
    assert judge(bytes(before), bytes(after), ROUND, {0}) == ([], 0)


def a_byte(content: bytearray) -> None:
    content[SLOT + 5 * SECTOR + 7] ^= 1


def a_lost_sector(content: bytearray) -> None:
    content[SLOT + 2 * SECTOR : SLOT + 3 * SECTOR] = bytes(SECTOR)


def another_record(content: bytearray) -> None:
    content[SLOT : 2 * SLOT] = content[:SLOT]


def beyond_its_end(content: bytearray) -> None:
    content[SLOT + len(record(ROUND, 1))] = 1


@pytest.mark.parametrize("change", [a_byte, a_lost_sector, another_record, beyond_its_end])
def test_a_record_that_was_told_must_be_whole(change: Callable[[bytearray], None]) -> None:
    after = disk(0, 1, 2)
    change(after)
    wrong, _ = judge(disk(), after, ROUND, {0, 1, 2})
    assert wrong
    assert all(line.startswith("record 1: ") for line in wrong)


@pytest.mark.parametrize("change", [a_byte, another_record, beyond_its_end])
def test_a_record_that_was_not_told_is_old_or_new_in_each_sector(change: Callable[[bytearray], None]) -> None:
    after = disk(0, 1, 2)
    change(after)
    wrong, _ = judge(disk(), after, ROUND, {0, 2})
    assert wrong


def test_a_disk_that_has_shrunk() -> None:
    wrong, _ = judge(disk(), disk()[:-SECTOR], ROUND, set())
    assert wrong
