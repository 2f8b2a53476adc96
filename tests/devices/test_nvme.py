"""The NVMe controller: registers, queues, admin commands, what goes wrong with them."""

import struct

import pytest

from iommud.models.nvme import identify as i
from iommud.models.nvme import wire as w
from iommud.pci import registers as r
from tests.devices.nvme_driver import (
    ALL,
    DATA,
    ENTRIES,
    IO_CQ,
    IO_SQ,
    MEMORY,
    NOWHERE,
    Driver,
    Queue,
)
from tests.engine.fakes import P


def test_what_its_registers_say() -> None:
    d = Driver(dstrd=2, enable=False)
    cap = d.load(w.CAP, 8)
    assert (cap & 0xFFFF, cap >> 16 & 1, cap >> 32 & 0xF, cap >> 37 & 1, cap >> 48 & 0xF, cap >> 52 & 0xF) == (
        1023,
        1,
        2,
        1,
        0,
        4,
    )
    assert (d.load(w.VS), d.status, d.load(w.CAP + 4)) == (0x10400, 0, cap >> 32)
    d.enable()
    assert (d.status, d.load(w.AQA), d.load(w.CC)) == (w.CSTS_RDY, 0x000F000F, 0x460001)
    d.store(w.VS, 0)
    d.store(w.CAP, 0, 8)
    assert (d.load(w.VS), d.load(w.CAP, 8)) == (0x10400, cap)
    assert d.load(0xE00) == 0


@pytest.mark.parametrize(
    ("cc", "aqa", "asq"),
    [
        (w.CC_EN | 5 << w.CC_MPS, 0xF000F, MEMORY),
        (w.CC_EN | 1 << w.CC_CSS, 0xF000F, MEMORY),
        (w.CC_EN | 1 << w.CC_AMS, 0xF000F, MEMORY),
        (w.CC_EN | 5 << w.CC_IOSQES, 0xF000F, MEMORY),
        (w.CC_EN | 5 << w.CC_IOCQES, 0xF000F, MEMORY),
        (w.CC_EN, 0xF0000, MEMORY),
        (w.CC_EN, 0x0000F, MEMORY),
        (w.CC_EN | 1 << w.CC_MPS, 0xF000F, MEMORY + P),
    ],
)
def test_what_it_cannot_be_enabled_with(cc: int, aqa: int, asq: int) -> None:
    d = Driver(enable=False)
    said: list[str] = []
    d.rig.function.why = said.append
    d.store(w.AQA, aqa)
    d.store(w.ASQ, asq, 8)
    d.store(w.ACQ, MEMORY, 8)
    d.store(w.CC, cc)
    assert d.status == w.CSTS_CFS
    assert "nvme at 0000:e0:00.0: the controller has failed: it is enabled, but" in said[0]
    d.doorbell(0, 1)
    d.store(w.CC, 0)
    assert d.status == 0
    d.enable()
    assert d.status == w.CSTS_RDY


def test_a_controller_reset_forgets_all_but_the_admin_queues_places() -> None:
    d = Driver()
    queue = d.make_queue()
    d.admin(w.SET_FEATURES, 0, 0, 0, w.INTERRUPT_COALESCING, 0x1234)
    d.store(w.INTMS, 0x5)
    assert (d.load(w.INTMS), d.load(w.INTMC)) == (5, 5)
    d.store(w.CC, 0)
    assert (d.status, d.load(w.AQA), d.load(w.ASQ, 8), d.load(w.INTMS)) == (0, 0xF000F, MEMORY, 0)
    d.enable()
    assert d.admin(w.GET_FEATURES, 0, 0, 0, w.INTERRUPT_COALESCING).dword0 == 0
    d.put(queue, w.FLUSH, 1)
    d.ring(queue)
    assert d.answers(queue) == []


def test_a_shutdown_flushes_and_says_so() -> None:
    d = Driver()
    d.store(w.CC, d.load(w.CC) | 1 << w.CC_SHN)
    assert d.status == w.CSTS_RDY | w.CSTS_SHUTTING_DOWN
    d.rig.clock.pass_()
    assert d.status == w.CSTS_RDY | w.CSTS_SHUT_DOWN
    d.store(w.CC, 0)
    d.enable()
    assert d.status == w.CSTS_RDY


# --- identify ---


def test_identify_tells_what_it_is() -> None:
    d = Driver(serial="ABC", ns=2, size=8 << 20)
    assert d.admin(w.IDENTIFY, 0, DATA, 0, i.CONTROLLER).status == w.SUCCESS
    data = d.memory(DATA, P)
    assert struct.unpack_from("<HH20s40s", data) == (
        0x1234,
        0x1234,
        b"ABC".ljust(20),
        b"iommud NVMe Controller".ljust(40),
    )
    assert (data[77], struct.unpack_from("<I", data, 80)[0], struct.unpack_from("<I", data, 516)[0]) == (7, 0x10400, 2)
    assert struct.unpack_from("<H", data, 256)[0] == 0x102
    for nsid in (1, 2):
        assert d.admin(w.IDENTIFY, nsid, DATA, 0, i.NAMESPACE).status == w.SUCCESS
        data = d.memory(DATA, P)
        assert struct.unpack_from("<QQQ", data) == (8192, 8192, 8192)
        assert (data[25], data[26], data[130], data[134]) == (1, 0, 9, 12)
        names = data[104:128]
        assert d.admin(w.IDENTIFY, nsid, DATA, 0, i.DESCRIPTORS).status == w.SUCCESS
        data = d.memory(DATA, P)
        assert (data[:2], data[4:12], data[12:14], data[16:32]) == (b"\1\x08", names[16:], b"\2\x10", names[:16])
    assert d.admin(w.IDENTIFY, 0, DATA, 0, i.ACTIVE_NAMESPACES).status == w.SUCCESS
    assert struct.unpack_from("<3I", d.memory(DATA, 12)) == (1, 2, 0)
    d.admin(w.IDENTIFY, 1, DATA, 0, i.ACTIVE_NAMESPACES)
    assert struct.unpack_from("<2I", d.memory(DATA, 8)) == (2, 0)


def test_what_identify_refuses() -> None:
    d = Driver()
    for nsid, cns, status in (
        (0, i.NAMESPACE, w.INVALID_NAMESPACE),
        (2, i.NAMESPACE, w.INVALID_NAMESPACE),
        (ALL, i.NAMESPACE, w.INVALID_NAMESPACE),
        (2, i.DESCRIPTORS, w.INVALID_NAMESPACE),
        (ALL - 1, i.ACTIVE_NAMESPACES, w.INVALID_NAMESPACE),
        (1, 0x10, w.INVALID_FIELD),
        (1, 0x06, w.INVALID_FIELD),
    ):
        assert d.admin(w.IDENTIFY, nsid, DATA, 0, cns).status == status, (nsid, cns)
    assert d.admin(w.IDENTIFY, 0, NOWHERE, 0, i.CONTROLLER).status == w.DATA_TRANSFER_ERROR


# --- queues ---


@pytest.mark.parametrize(
    ("opcode", "prp1", "cdw10", "cdw11", "status"),
    [
        (w.CREATE_CQ, IO_CQ, 0 | 15 << 16, 1, w.QUEUE_ID_INVALID),
        (w.CREATE_CQ, IO_CQ, 17 | 15 << 16, 1, w.QUEUE_ID_INVALID),
        (w.CREATE_CQ, IO_CQ, 1 | 15 << 16, 1, w.QUEUE_ID_INVALID),  # there is one
        (w.CREATE_CQ, IO_CQ, 2, 1, w.QUEUE_SIZE_INVALID),
        (w.CREATE_CQ, IO_CQ, 2 | 1024 << 16, 1, w.QUEUE_SIZE_INVALID),
        (w.CREATE_CQ, IO_CQ + 8, 2 | 15 << 16, 1, w.PRP_OFFSET_INVALID),
        (w.CREATE_CQ, IO_CQ, 2 | 15 << 16, 1 | 17 << 16, w.INTERRUPT_VECTOR_INVALID),
        (w.CREATE_CQ, IO_CQ, 2 | 15 << 16, 0, w.INVALID_FIELD),
        (w.CREATE_SQ, IO_SQ, 2 | 15 << 16, 1, w.QUEUE_ID_INVALID),  # CQ 0
        (w.CREATE_SQ, IO_SQ, 2 | 15 << 16, 1 | 2 << 16, w.CQ_INVALID),
        (w.CREATE_SQ, IO_SQ, 0 | 15 << 16, 1 | 1 << 16, w.QUEUE_ID_INVALID),
        (w.CREATE_SQ, IO_SQ, 1 | 15 << 16, 1 | 1 << 16, w.QUEUE_ID_INVALID),
        (w.CREATE_SQ, IO_SQ, 2, 1 | 1 << 16, w.QUEUE_SIZE_INVALID),
        (w.CREATE_SQ, IO_SQ + 64, 2 | 15 << 16, 1 | 1 << 16, w.PRP_OFFSET_INVALID),
        (w.CREATE_SQ, IO_SQ, 2 | 15 << 16, 0 | 1 << 16, w.INVALID_FIELD),
        (w.DELETE_SQ, 0, 0, 0, w.QUEUE_ID_INVALID),
        (w.DELETE_SQ, 0, 2, 0, w.QUEUE_ID_INVALID),
        (w.DELETE_CQ, 0, 0, 0, w.QUEUE_ID_INVALID),
        (w.DELETE_CQ, 0, 2, 0, w.QUEUE_ID_INVALID),
        (w.DELETE_CQ, 0, 1, 0, w.QUEUE_DELETION_INVALID),
    ],
)
def test_what_is_refused_of_queues(opcode: int, prp1: int, cdw10: int, cdw11: int, status: int) -> None:
    d = Driver()
    queue = d.make_queue()
    assert d.admin(opcode, 0, prp1, 0, cdw10, cdw11).status == status
    assert d.read(queue, 0, 1).status == w.SUCCESS


def test_queues_go_and_come_again() -> None:
    d = Driver()
    for _ in range(3):
        queue = d.make_queue()
        assert d.read(queue, 0, 1).status == w.SUCCESS
        assert d.admin(w.DELETE_SQ, 0, 0, 0, 1).status == w.SUCCESS
        assert d.admin(w.DELETE_CQ, 0, 0, 0, 1).status == w.SUCCESS


def test_a_completion_queue_that_is_full_holds_commands_back() -> None:
    d = Driver()
    queue = d.make_queue()
    small = Queue(2, IO_SQ + 0x8000, IO_CQ + 0x8000)
    d.admin(w.CREATE_CQ, 0, small.cq, 0, 2 | 3 << 16, 1)  # four entries
    d.admin(w.CREATE_SQ, 0, small.sq, 0, 2 | 15 << 16, 1 | 2 << 16)
    for _ in range(10):
        d.put(small, w.FLUSH, 1)
    d.ring(small)
    entries = [d.memory(small.cq + w.CQE * at, w.CQE)[14] & 1 for at in range(4)]
    assert entries == [1, 1, 1, 0]
    d.doorbell(5, 2)
    assert [d.memory(small.cq + w.CQE * at, w.CQE)[14] & 1 for at in range(4)] == [0, 1, 1, 1]
    assert d.read(queue, 0, 1).status == w.SUCCESS  # another queue is not held back


def test_wrong_doorbells_are_events() -> None:
    d = Driver()
    d.make_queue()
    for doorbell, value, what in ((6, 1, 0), (2, ENTRIES, 1), (3, 5, 1)):
        cid = d.put(d.admin_queue, w.ASYNC_EVENT_REQUEST)
        d.ring(d.admin_queue)
        d.doorbell(doorbell, value)
        (event,) = d.answers(d.admin_queue)
        assert (event.cid, event.dword0) == (cid, what << 8 | w.LOG_ERROR << 16)
        d.doorbell(doorbell, value)
        assert d.answers(d.admin_queue) == []  # it is told once
        d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_ERROR | 15 << 16)


def test_a_queue_that_cannot_be_reached_is_the_end_until_a_reset() -> None:
    for opcode in (w.CREATE_CQ, w.CREATE_SQ):
        d = Driver()
        said: list[str] = []
        d.rig.function.why = said.append
        sq, cq = (NOWHERE, IO_CQ) if opcode == w.CREATE_SQ else (IO_SQ, NOWHERE)
        size = 1 | ENTRIES - 1 << 16
        d.admin(w.CREATE_CQ, 0, cq, 0, size, 3)
        d.admin(w.CREATE_SQ, 0, sq, 0, size, 1 | 1 << 16)
        d.fill(IO_SQ, struct.pack("<BBHI", w.FLUSH, 0, 1, 1).ljust(64, b"\0"))
        d.doorbell(2, 1)
        assert d.status & w.CSTS_CFS
        assert said[-1] == "nvme at 0000:e0:00.0: the controller has failed: it cannot reach a queue"
        d.doorbell(0, 1)
        d.store(w.CC, 0)
        d.enable()
        assert (d.status, d.admin(w.IDENTIFY, 0, DATA, 0, 1).status) == (w.CSTS_RDY, w.SUCCESS)


# --- features ---


def test_features_are_remembered_until_a_reset_and_cannot_be_saved() -> None:
    d = Driver()
    for feature, value in (
        (w.ARBITRATION, 0x03020102),
        (w.POWER_MANAGEMENT, 2),
        (w.TEMPERATURE_THRESHOLD, 400),
        (w.VOLATILE_WRITE_CACHE, 0),
        (w.INTERRUPT_COALESCING, 0x0102),
        (w.INTERRUPT_VECTOR, 0x10003),
        (w.WRITE_ATOMICITY, 1),
        (w.ASYNC_EVENTS, 0x1F),
    ):
        default = d.admin(w.GET_FEATURES, 0, 0, 0, feature, value & 3 if feature == w.INTERRUPT_VECTOR else 0).dword0
        assert d.admin(w.SET_FEATURES, 0, 0, 0, feature, value).status == w.SUCCESS, feature
        where = 3 if feature == w.INTERRUPT_VECTOR else 0
        assert d.admin(w.GET_FEATURES, 0, 0, 0, feature, where).dword0 == value
        for select in (1, 2):
            assert d.admin(w.GET_FEATURES, 0, 0, 0, feature | select << 8, where).dword0 == default
        assert d.admin(w.GET_FEATURES, 0, 0, 0, feature | 3 << 8).dword0 == 4
        assert d.admin(w.GET_FEATURES, 0, 0, 0, feature | 4 << 8).status == w.INVALID_FIELD
        assert d.admin(w.SET_FEATURES, 0, 0, 0, feature | 1 << 31, value).status == w.FEATURE_NOT_SAVEABLE
        assert d.admin(w.SET_FEATURES, 1, 0, 0, feature, value).status == w.FEATURE_NOT_OF_NAMESPACE
        assert d.admin(w.SET_FEATURES, 2, 0, 0, feature, value).status == w.INVALID_NAMESPACE


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        (w.POWER_MANAGEMENT, 3),
        (w.TEMPERATURE_THRESHOLD, 1 << 16),
        (w.TEMPERATURE_THRESHOLD, 2 << 20),
        (w.INTERRUPT_VECTOR, 17),
        (w.NUMBER_OF_QUEUES, 0xFFFF),
        (w.NUMBER_OF_QUEUES, 0xFFFF0000),
        (w.ERROR_RECOVERY, 1 << 16),
        (0x0D, 1),  # host memory
        (0x03, 0),
        (0xC0, 0),
    ],
)
def test_what_features_refuse(feature: int, value: int) -> None:
    nsid = 1 if feature == w.ERROR_RECOVERY else 0
    assert Driver().admin(w.SET_FEATURES, nsid, 0, 0, feature, value).status == w.INVALID_FIELD


def test_a_feature_of_each_namespace() -> None:
    d = Driver(ns=2, size=8 << 20)
    assert d.admin(w.SET_FEATURES, 2, 0, 0, w.ERROR_RECOVERY, 7).status == w.SUCCESS
    assert [d.admin(w.GET_FEATURES, nsid, 0, 0, w.ERROR_RECOVERY).dword0 for nsid in (1, 2)] == [0, 7]
    d.admin(w.SET_FEATURES, ALL, 0, 0, w.ERROR_RECOVERY, 9)
    assert [d.admin(w.GET_FEATURES, nsid, 0, 0, w.ERROR_RECOVERY).dword0 for nsid in (1, 2)] == [9, 9]
    assert d.admin(w.GET_FEATURES, 0, 0, 0, w.ERROR_RECOVERY).status == w.INVALID_NAMESPACE
    assert d.admin(w.SET_FEATURES, 0, 0, 0, w.ERROR_RECOVERY, 9).status == w.INVALID_NAMESPACE
    assert d.admin(w.GET_FEATURES, 1, 0, 0, w.ERROR_RECOVERY | 3 << 8).dword0 == 6


def test_the_number_of_queues_is_settled_before_there_are_any() -> None:
    d = Driver(queues=5)
    assert d.admin(w.SET_FEATURES, 0, 0, 0, w.NUMBER_OF_QUEUES, 0x20002).dword0 == 0x40004
    assert d.admin(w.GET_FEATURES, 0, 0, 0, w.NUMBER_OF_QUEUES).dword0 == 0x40004
    d.make_queue()
    assert d.admin(w.SET_FEATURES, 0, 0, 0, w.NUMBER_OF_QUEUES, 0).status == w.COMMAND_SEQUENCE_ERROR


def test_the_timestamp_goes_on() -> None:
    d = Driver()
    d.fill(DATA, (1_000_000).to_bytes(6, "little") + b"\0\0")
    assert d.admin(w.SET_FEATURES, 0, DATA, 0, w.TIMESTAMP).status == w.SUCCESS
    d.rig.clock.pass_(2.5)
    assert d.admin(w.GET_FEATURES, 0, DATA, 0, w.TIMESTAMP).status == w.SUCCESS
    assert d.memory(DATA, 8) == (1_002_500).to_bytes(6, "little") + b"\2\0"


# --- logs, events, abort ---


def test_the_health_log_counts() -> None:
    d = Driver()
    queue = d.make_queue()
    d.write(queue, 0, 8)
    d.read(queue, 0, 8)
    d.read(queue, 0, 8)
    d.read(queue, 1 << 40, 1)
    assert d.admin(w.GET_LOG_PAGE, ALL, DATA, 0, w.LOG_SMART | 127 << 16).status == w.SUCCESS
    data = d.memory(DATA, 512)
    assert (data[0], struct.unpack_from("<H", data, 1)[0], data[3]) == (0, 310, 100)
    counts = [int.from_bytes(data[at : at + 16], "little") for at in range(32, 192, 16)]
    assert counts == [1, 1, 2, 1, 0, 1, 0, 0, 0, 1]
    assert d.admin(w.GET_LOG_PAGE, 1, DATA, 0, w.LOG_SMART | 127 << 16).status == w.INVALID_FIELD


def test_the_error_log_says_what_failed() -> None:
    d = Driver()
    queue = d.make_queue()
    first = d.read(queue, 0x1_2345_6789, 1)
    second = d.read(queue, 0, 1, nsid=5)
    d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_ERROR | 31 << 16)
    data = d.memory(DATA, 128)
    for at, count, answer, lba, nsid in ((64, 1, first, 0x1_2345_6789, 1), (0, 2, second, 0, 5)):
        found = struct.unpack_from("<QHHHHQI", data, at)
        assert found == (count, 1, answer.cid, (answer.status | w.MORE | w.DO_NOT_RETRY) << 1, 0xFFFF, lba, nsid)


def test_other_logs_and_parts_of_logs() -> None:
    d = Driver()
    d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_EFFECTS | 1023 << 16)
    data = d.memory(DATA, P)
    assert struct.unpack_from("<I", data, 4 * w.FORMAT_NVM)[0] & 7 == 7
    assert [struct.unpack_from("<I", data, 1024 + 4 * opcode)[0] for opcode in range(13)] == [
        1,
        3,
        1,
        0,
        0,
        1,
        0,
        0,
        3,
        3,
        0,
        0,
        1,
    ]
    d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_EFFECTS | 0 << 16, 0, 1024 + 4 * w.WRITE)
    assert d.memory(DATA, 4) == b"\3\0\0\0"
    d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_FIRMWARE | 3 << 16)
    assert d.memory(DATA, 16) == b"\1" + bytes(7) + b"1.0     "
    for cdw10, offset, status in (
        (0x04 | 3 << 16, 0, w.LOG_PAGE_INVALID),
        (w.LOG_SMART | 3 << 16, 2, w.INVALID_FIELD),
        (w.LOG_SMART | 3 << 16, 512, w.INVALID_FIELD),
    ):
        assert d.admin(w.GET_LOG_PAGE, 0, DATA, 0, cdw10, 0, offset).status == status


def test_heat_is_an_event_once_until_the_log_is_read() -> None:
    d = Driver()
    cid = d.put(d.admin_queue, w.ASYNC_EVENT_REQUEST)
    d.ring(d.admin_queue)
    d.admin(w.SET_FEATURES, 0, 0, 0, w.TEMPERATURE_THRESHOLD, 300)  # not asked for yet
    d.put(d.admin_queue, w.SET_FEATURES, 0, 0, 0, w.ASYNC_EVENTS, 2)
    d.ring(d.admin_queue)
    assert {(answer.cid, answer.dword0) for answer in d.answers(d.admin_queue)} >= {(cid, 0x20101)}
    cid = d.put(d.admin_queue, w.ASYNC_EVENT_REQUEST)
    d.put(d.admin_queue, w.SET_FEATURES, 0, 0, 0, w.TEMPERATURE_THRESHOLD, 290)
    d.ring(d.admin_queue)
    assert cid not in {answer.cid for answer in d.answers(d.admin_queue)}
    d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_SMART | 1 << 15 | 127 << 16)  # read, but retained
    d.admin(w.SET_FEATURES, 0, 0, 0, w.TEMPERATURE_THRESHOLD, 290)
    d.admin(w.GET_LOG_PAGE, 0, DATA, 0, w.LOG_SMART | 127 << 16)
    assert d.memory(DATA, 1) == b"\2"
    d.put(d.admin_queue, w.SET_FEATURES, 0, 0, 0, w.TEMPERATURE_THRESHOLD, 290)
    d.ring(d.admin_queue)
    assert cid in {answer.cid for answer in d.answers(d.admin_queue)}


def test_only_so_many_event_requests_and_they_can_be_aborted() -> None:
    d = Driver()
    cids = [d.put(d.admin_queue, w.ASYNC_EVENT_REQUEST) for _ in range(5)]
    d.ring(d.admin_queue)
    assert [(each.cid, each.status) for each in d.answers(d.admin_queue)] == [(cids[4], w.ASYNC_EVENT_LIMIT_EXCEEDED)]
    d.put(d.admin_queue, w.ABORT, 0, 0, 0, cids[1] << 16)
    d.ring(d.admin_queue)
    aborted, answer = d.answers(d.admin_queue)
    assert ((aborted.cid, aborted.status), (answer.status, answer.dword0)) == ((cids[1], w.ABORT_REQUESTED), (0, 0))
    assert d.admin(w.ABORT, 0, 0, 0, cids[1] << 16).dword0 == 1
    assert d.admin(w.ABORT, 0, 0, 0, 3).status == w.INVALID_FIELD


@pytest.mark.parametrize("opcode", [0x03, 0x0D, 0x10, 0x11, 0x14, 0x15, 0x18, 0x19, 0x81, 0x84, 0xC0, 0xFF])
def test_other_admin_commands_are_unknown(opcode: int) -> None:
    assert Driver().admin(opcode).status == w.INVALID_OPCODE


@pytest.mark.parametrize("flags", [0x01, 0x02, 0x40, 0x80, 0xC0])
def test_admin_commands_are_neither_fused_nor_have_sgls(flags: int) -> None:
    d = Driver()
    assert d.do(d.admin_queue, w.IDENTIFY, 0, DATA, 0, 1, flags=flags).status == w.INVALID_FIELD


# --- doorbells in memory ---


def test_doorbells_in_memory_are_refused_where_they_are_off_or_askew() -> None:
    d = Driver(dbbuf=False)
    assert d.admin(w.DOORBELL_BUFFER_CONFIG, 0, DATA, DATA + P).status == w.INVALID_OPCODE
    d = Driver()
    assert d.admin(w.DOORBELL_BUFFER_CONFIG, 0, DATA + 4, DATA + P).status == w.INVALID_FIELD
    assert d.admin(w.DOORBELL_BUFFER_CONFIG, 0, DATA, NOWHERE).status == w.DATA_TRANSFER_ERROR
    assert d.admin(w.IDENTIFY, 0, DATA, 0, 1).status == w.SUCCESS


def test_the_reset_of_the_function_forgets_all() -> None:
    d = Driver()
    d.make_queue()
    express = d.rig.function.where[r.PCI_CAP_ID_EXP]
    d.rig.config_write(express + r.PCI_EXP_DEVCTL, 2, r.PCI_EXP_DEVCTL_BCR_FLR)
    assert (d.status, d.load(w.CC), d.load(w.AQA), d.load(w.ASQ, 8)) == (0, 0, 0, 0)
