"""Split and packed rings: who is told when, indices that go round, and rings that make no sense."""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from iommud.engine.device.device import Move
from tests.engine.fakes import unmap

from .virtio import (
    BASE,
    EVENT_IDX,
    EVERY,
    IN_ORDER,
    INDIRECT,
    NOWHERE,
    PACKED,
    STATUS,
    Driver,
    Packed,
    Split,
    table_of,
)

IN, OUT, GET_ID = 0, 1, 8
NEEDS_RESET = 0x40


@pytest.fixture(params=[0, PACKED], ids=["split", "packed"])
def packed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[0, EVENT_IDX], ids=["flags", "events"])
def driver(request: pytest.FixtureRequest, packed: int) -> Iterator[Driver]:
    made = Driver(packed | request.param | INDIRECT | EVERY, depth=8)
    yield made
    made.close()


def test_they_go_round_many_times(driver: Driver) -> None:
    for turn in range(100):
        sent = [driver.send(GET_ID, room=20) for _ in range(turn % 2 + 1)]
        driver.notify()
        assert [done.status for done in driver.collect().values()] == [0] * len(sent)
    assert driver.rings[0].room == 8


def test_the_index_wraps_at_16_bits(packed: int) -> None:
    driver = Driver(packed | EVENT_IDX, depth=256)
    ring, memory = driver.rings[0], driver.memory
    header, name, status = driver.header(GET_ID), memory.take(20), memory.take(1)
    for _ in range(66000 // 80):
        for _ in range(80):
            ring.add([(header, 16, False), (name, 20, True), (status, 1, True)])
        if ring.wants_notification():
            driver.notify()
        assert len(ring.used()) == 80
        ring.wish(True)
    assert driver.interrupts() > 800
    driver.close()


def test_a_ring_can_be_full(driver: Driver) -> None:
    for _ in range(3):
        sent = [driver.send(GET_ID, room=20, indirect=True) for _ in range(8)]
        assert driver.rings[0].room == 0
        driver.notify()
        assert set(driver.collect()) == set(sent)
    assert driver.status == 15


def test_a_chain_as_long_as_the_ring(driver: Driver) -> None:
    driver.disk.write(0, bytes(range(256)) * 12)
    for sector in range(3):
        done = driver.ask(IN, sector, room=6 * 512 - sector * 512, pieces=6)
        assert done.data == driver.disk.read(sector * 512, 6 * 512 - sector * 512)


def test_tables_may_come_after_descriptors(driver: Driver) -> None:
    ring, memory = driver.rings[0], driver.memory
    header, status, table = driver.header(GET_ID), memory.take(1), memory.take(32)
    name = memory.take(20)
    memory.write(table, table_of([(name, 20, True), (status, 1, True)], chained=isinstance(ring, Split)))
    raw(driver, [(header, 16, 1), (table, 32, 4 | 2)])  # that it is to be written is ignored
    driver.notify()
    assert len(ring.used()) == 1
    assert memory.read(name, 6) == b"iommud"


def raw(driver: Driver, rows: list[tuple[int, int, int]], following: int | None = None) -> None:
    """Descriptors as they are: IOVA, bytes, flags. `following`: where the last one leads."""
    ring = driver.rings[0]
    if isinstance(ring, Split):
        for n, (iova, length, flags) in enumerate(rows):
            last = n == len(rows) - 1
            ring.descriptor(n, iova, length, flags, following if last and following is not None else n + 1)
        ring.chains[0] = list(range(len(rows)))
        ring.offer(0)
        return
    for n, (iova, length, flags) in reversed(list(enumerate(rows))):
        at = (ring.at + n) % ring.size
        wrap = ring.wrap == (ring.at + n < ring.size)
        row = struct.pack("<QIHH", iova, length, 5, flags | (0x80 if wrap else 0x8000))
        driver.memory.write(ring.descriptors + 16 * at, row)
    ring.chains[5] = len(rows)


# --- who is told when ---


def test_one_interrupt_for_a_batch(driver: Driver) -> None:
    for _ in range(3):
        for _ in range(2):
            driver.send(GET_ID, room=20)
        driver.notify()
        assert driver.interrupts() == 1
        driver.collect()
    driver.notify()
    assert driver.interrupts() == 0


def test_no_interrupt_when_none_is_wished(driver: Driver) -> None:
    driver.rings[0].wish(False)
    driver.ask(GET_ID, room=20)
    driver.rings[0].wish(False)
    driver.ask(GET_ID, room=20)
    assert driver.interrupts() == 0
    driver.rings[0].wish(True)
    driver.ask(GET_ID, room=20)
    assert driver.interrupts() == 1


def test_an_interrupt_when_so_many_were_used(packed: int) -> None:
    driver = Driver(packed | EVENT_IDX | INDIRECT, depth=8)
    ring = driver.rings[0]
    for _ in range(30):
        ring.wish(True, ahead=2)  # the third from here
        told = []
        for _ in range(5):
            driver.send(GET_ID, room=20, indirect=True)
            driver.notify()
            told.append(driver.interrupts())
        assert told == [0, 0, 1, 0, 0]
        for number, _ in ring.used():
            del driver.pending[0][number]
    driver.close()


def test_notifications_are_asked_for_where_the_device_stopped(driver: Driver) -> None:
    ring = driver.rings[0]
    for _ in range(20):
        driver.send(GET_ID, room=20)
        assert ring.wants_notification()
        driver.notify()
        driver.collect()


def test_what_comes_while_it_stops_is_not_missed(packed: int) -> None:
    """The race: the driver looks whether it is to notify just before the device says so."""
    driver = Driver(packed | EVENT_IDX, depth=16)
    ring, function = driver.rings[0], driver.rig.function
    sent: list[int] = []
    status = driver.send(GET_ID, room=20)
    begun = function.dma_moves

    def moves(moves: object, begin: int = 0) -> int:
        if not sent:  # buffers were used, and this is about to be told
            sent.append(driver.send(GET_ID, room=20))
            ring.wants_notification()
        return begun(moves, begin)  # type: ignore[arg-type]

    function.dma_moves = moves  # type: ignore[method-assign]
    driver.notify()
    assert set(driver.collect()) == {status, *sent}
    driver.close()


def test_a_driver_that_polls_sees_nothing_half_done(packed: int) -> None:
    """Whatever was written last: what is used has its status, and what came of it."""
    driver = Driver(packed | INDIRECT, depth=4)
    ring, function = driver.rings[0], driver.rig.function
    begun = function.dma_moves
    seen: list[int] = []

    def moves(given: Sequence[Move], begin: int = 0) -> int:
        for at in range(begin, len(given)):
            assert begun(given[at : at + 1]) == 1
            for number, length in ring.used():
                _, room, status = driver.pending[0].pop(number)
                assert driver.memory.read(status, 1) == b"\0"
                assert length == room + 1
                seen.append(number)
        return len(given) - begin

    function.dma_moves = moves  # type: ignore[method-assign, assignment]
    for _ in range(3):
        sent = [driver.send(GET_ID, room=20, indirect=True) for _ in range(3)]
        driver.notify()
        assert seen == sent
        seen.clear()
    driver.close()


def test_a_batch_takes_few_dmas(packed: int) -> None:
    """Each costs about 10 us, however small it is."""
    driver = Driver(packed | INDIRECT | EVENT_IDX | EVERY, depth=16)
    counts: Counter[str] = Counter()
    for name in "dma_read", "dma_write", "dma_moves", "dma_gather", "dma_file":
        count(driver, name, counts)
    for n in range(8):
        driver.send(IN, n, room=1024, pieces=2, indirect=True)
    driver.notify()
    reads = 3 + bool(packed)  # what is available, twice; the table; and of packed rings, what the driver wishes
    assert counts == {"dma_read": reads, "dma_gather": 2, "dma_moves": 1, "dma_file": 8}
    assert len(driver.collect()) == 8
    driver.close()


def count(driver: Driver, name: str, counts: Counter[str]) -> None:
    """Count the calls of a method of the function's."""
    real = getattr(driver.rig.function, name)

    def counted(*how: Any, **named: Any) -> Any:
        counts[name] += 1
        return real(*how, **named)

    setattr(driver.rig.function, name, counted)


def test_in_order_means_in_order(packed: int) -> None:
    driver = Driver(packed | IN_ORDER, slow=True, depth=32)
    sent = []
    for n in range(4):
        sent.append(driver.send(OUT, n, bytes(512)))
        sent.append(driver.send(GET_ID, room=20))
    driver.notify()
    assert driver.collect() == {}
    driver.rig.clock.pass_()
    assert list(driver.collect()) == sent
    driver.close()


@pytest.mark.parametrize("align", [4, 16])
def test_a_used_ring_may_be_aligned_to_4_bytes(align: int) -> None:
    driver = Driver(0, depth=4, align=align)
    assert driver.rings[0].device % 8 == align % 8
    for n in range(20):
        assert driver.ask(GET_ID, room=20).status == 0, n
    driver.close()


# --- broken rings ---


def breaks(driver: Driver, why: str, notify: bool = True) -> None:
    """The device gives up, says why, interrupts once, and does nothing more until it is reset."""
    driver.disk.write(0, b"\x99" * 512)
    driver.interrupts()
    if notify:
        driver.notify()
    driver.rig.clock.pass_()
    assert driver.status == 15 | NEEDS_RESET
    assert driver.config_interrupts() == 1
    (said,) = driver.said
    assert said.startswith("virtio-blk at 0000:e0:00.0: queue 0: ")
    assert why in said
    assert said.endswith("; it needs a reset")
    driver.notify()
    driver.rig.clock.pass_()
    assert (driver.status, driver.config_interrupts(), len(driver.said)) == (15 | NEEDS_RESET, 0, 1)
    driver.set(STATUS, 1, 15)
    assert driver.status == 15 | NEEDS_RESET
    driver.start()
    driver.said.clear()
    assert driver.ask(IN, room=512).data == b"\x99" * 512
    assert driver.rig.clock.waiting == 0


def test_readable_after_writable(driver: Driver) -> None:
    at = driver.memory.take(64)
    raw(driver, [(at, 16, 1), (at, 16, 2 | 1), (at, 16, 0)])
    breaks(driver, "comes after one to be written")


def test_no_room_for_a_status(driver: Driver) -> None:
    at = driver.memory.take(64)
    raw(driver, [(at, 16, 1), (at, 0, 2)])
    breaks(driver, "a request has no byte for its status")


def test_a_status_that_cannot_be_written(driver: Driver) -> None:
    raw(driver, [(driver.header(GET_ID), 16, 1), (NOWHERE, 1, 2)])
    breaks(driver, f"1 bytes at {NOWHERE:#x} cannot be reached")


@pytest.mark.parametrize(("length", "why"), [(0, "has not 1 to"), (24, "has not 1 to"), (16 * 1025, "has not 1 to")])
def test_tables_of_odd_lengths(driver: Driver, length: int, why: str) -> None:
    raw(driver, [(driver.memory.take(64), length, 4)])
    breaks(driver, why)


def test_a_table_that_cannot_be_read(driver: Driver) -> None:
    raw(driver, [(NOWHERE, 32, 4)])
    breaks(driver, f"32 bytes at {NOWHERE:#x} cannot be reached")


def test_a_table_in_a_table(driver: Driver) -> None:
    table = driver.memory.take(32)
    driver.memory.write(table, struct.pack("<QIHH", table, 16, 4, 4))
    raw(driver, [(table, 16, 4)])
    breaks(driver, "within an indirect table is indirect")


def test_a_table_and_more(driver: Driver) -> None:
    table = driver.memory.take(32)
    raw(driver, [(table, 16, 4 | 1), (table, 16, 0)])
    breaks(driver, "is indirect and has a next one")


def test_a_table_that_was_not_agreed_on(packed: int) -> None:
    driver = Driver(packed)
    raw(driver, [(driver.memory.take(32), 16, 4)])
    breaks(driver, "which was not negotiated")


def test_loops_in_tables_of_split_rings() -> None:
    driver = Driver(INDIRECT)
    table = driver.memory.take(32)
    for following, why in ((0, "has a loop"), (2, "descriptor 2 is beyond a table of 2")):
        driver.memory.write(table, struct.pack("<QIHHQIHH", table, 16, 1, 1, table, 16, 1, following))
        raw(driver, [(table, 32, 4)])
        breaks(driver, why)
        driver.said.clear()


@pytest.mark.parametrize(
    ("following", "why"), [(0, "has a loop"), (1, "has a loop"), (16, "descriptor 16 is beyond"), (0xFFFF, "is beyond")]
)
def test_chains_of_split_rings_that_lead_astray(following: int, why: str) -> None:
    driver = Driver(0)
    at = driver.memory.take(16)
    raw(driver, [(at, 16, 1), (at, 16, 1)], following)
    breaks(driver, why)


def test_heads_of_split_rings_that_are_none() -> None:
    for head in (16, 0xFFFF):
        driver = Driver(0)
        ring = driver.rings[0]
        assert isinstance(ring, Split)
        ring.offer(head)
        breaks(driver, f"descriptor {head} is beyond a table of 16")


def test_an_index_that_jumps() -> None:
    driver = Driver(0)
    ring = driver.rings[0]
    driver.memory.put(ring.driver + 2, 17)
    breaks(driver, "went from 0 to 17")


def test_a_buffer_that_is_in_use_already() -> None:
    for after in (False, True):
        driver = Driver(0, slow=True)
        ring = driver.rings[0]
        assert isinstance(ring, Split)
        head = driver.send(OUT, 1, bytes(512))
        if after:
            driver.notify()
        ring.offer(head)
        breaks(driver, f"descriptor {head} is made available while it is in use")


def test_more_buffers_than_a_ring_has_room_for(packed: int) -> None:
    """What is in use counts, so that a driver cannot have the device remember more and more."""
    driver = Driver(packed | INDIRECT, slow=True, depth=4)
    ring = driver.rings[0]
    for _ in range(4):
        driver.send(OUT, 1, bytes(512), indirect=True)
    driver.notify()
    assert driver.status == 15
    if isinstance(ring, Split):
        driver.memory.put(ring.driver + 2, 5)
    else:
        ring.add([(driver.header(GET_ID), 16, False)])
    breaks(driver, "in use")


def test_a_chain_of_a_packed_ring_without_end() -> None:
    driver = Driver(PACKED, depth=4)
    at = driver.memory.take(16)
    raw(driver, [(at, 16, 1)] * 4)
    breaks(driver, "more than the ring's 4 descriptors")


@pytest.mark.parametrize("part", ["descriptors", "driver", "device"])
def test_a_ring_that_cannot_be_reached(driver: Driver, part: str) -> None:
    driver.negotiate()
    setattr(driver.rings[0], part, NOWHERE)
    driver.enable(0)
    driver.set(0x10, 2, 0)
    driver.set(STATUS, 1, 15)
    ring = driver.rings[0]
    if part == "device" and isinstance(ring, Packed) and not ring.events:
        driver.send(GET_ID, room=20)
        driver.notify()
        assert driver.status == 15, "the device has nothing to say there"
        return
    if part != "driver" or isinstance(ring, Packed):
        driver.send(GET_ID, room=20)
    breaks(driver, "bytes at 0x20000000")


@pytest.mark.parametrize(("part", "off"), [("descriptors", 8), ("driver", 1), ("device", 2)])
def test_a_ring_that_is_not_aligned(driver: Driver, part: str, off: int) -> None:
    driver.negotiate()
    ring = driver.rings[0]
    setattr(ring, part, getattr(ring, part) + off)
    driver.enable(0)
    driver.set(0x10, 2, 0)
    driver.set(STATUS, 1, 15)
    breaks(driver, "is not aligned")


def test_without_bus_mastering(driver: Driver) -> None:
    driver.rig.config_write(4, 2, 0x0002)
    driver.send(GET_ID, room=20)
    driver.notify()
    driver.rig.master()
    assert driver.status == 15 | NEEDS_RESET
    assert "bus mastering is off" in driver.said[0]
    assert "cannot be reached; it needs a reset" in driver.said[-1]


def test_memory_that_goes_while_requests_are_under_way(packed: int) -> None:
    driver = Driver(packed | EVERY, slow=True)
    driver.send(OUT, 0, b"\x44" * 512)
    driver.send(IN, 0, room=512)
    driver.notify()
    unmap(driver.ioas, BASE, 1024 * 4096)
    driver.rig.clock.pass_()
    assert driver.status == 15 | NEEDS_RESET
    assert driver.disk.read(0, 512) == b"\x44" * 512
    driver.close()


def test_what_came_before_a_broken_one_is_done(driver: Driver) -> None:
    good = driver.send(GET_ID, room=20)
    ring = driver.rings[0]
    if isinstance(ring, Split):
        ring.offer(77)
    else:
        raw(driver, [(NOWHERE, 3, 4)])
    driver.notify()
    assert driver.collect()[good].status == 0
    assert driver.status == 15 | NEEDS_RESET
    assert (driver.interrupts(), driver.config_interrupts()) == (1, 1)


def test_the_other_queues_of_a_broken_device_rest() -> None:
    driver = Driver(0, slow=True, uses=2)
    for queue in 0, 1:
        driver.send(OUT, queue, bytes(512), queue=queue)
        driver.notify(queue)
    driver.send(GET_ID, room=20, queue=1)
    driver.memory.put(driver.rings[0].driver + 2, 1000)
    driver.rig.clock.pass_()
    assert driver.status == 15 | NEEDS_RESET
    assert len(driver.collect(0)) == 1
    assert driver.collect(1) == {}
    assert (driver.interrupts(0), driver.interrupts(1), driver.config_interrupts()) == (1, 0, 1)
    driver.close()


def test_it_says_nothing_of_a_reset_that_nobody_waits_for() -> None:
    """Without DRIVER_OK no driver listens."""
    driver = Driver(0)
    driver.rings[0].driver = NOWHERE
    driver.negotiate()
    driver.enable(0)
    driver.notify()
    assert (driver.status, driver.config_interrupts()) == (11, 0)
