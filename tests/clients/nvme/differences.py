"""Where QEMU 7.2's NVMe controller and NVM Express 1.4 disagree, or where the specification leaves
a choice that iommud makes otherwise.

The streams in expected/ were answered by QEMU. A row says of some kinds of command what QEMU
answered, and what is expected of iommud instead. DNR and More are not compared: QEMU has no Error
Information log, so it never says More, and it leaves DNR out of some refusals (Compare Failure,
fused commands, the limit of Asynchronous Event Requests) that would be refused again.

Sections are those of NVM Express Base Specification 1.4, in our words.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

LEFT_OUT: Final = "not here"  # the controller has no such thing to ask about


@dataclass(frozen=True, slots=True)
class Row:
    """`kinds`: patterns, with blanks between. `qemu`: all of an answer, as a regular expression."""

    kinds: str
    qemu: str
    right: str
    section: str
    why: str
    optional: bool = False  # both are right

    def is_about(self, kind: str, answer: str) -> bool:
        return any(fnmatchcase(kind, each) for each in self.kinds.split()) and bool(re.fullmatch(self.qemu, answer))


LOST: Final = "an error of the transfer of data is Data Transfer Error; QEMU's block layer loses those of its copies"
FEATURE: Final = "whether a feature can be changed is the controller's choice, which Supported Capabilities tells"
FORGOTTEN: Final = "a feature that is not saved has its default again after a reset of the controller"
RESERVED: Final = "a reserved value of a field that is defined is an error"
UNMANAGED: Final = "this comes with Namespace Management, which iommud does not have"
SUBMISSION: Final = "of a completion queue's number, 0 and those beyond the limit are an Invalid Queue Identifier"

ROWS: Final = (
    # --- data ---
    Row(
        "*.*_unmapped identify.unmapped sgl.unmapped *.to_read_only identify.read_only",
        "0/00",
        "0/04",
        "4.6.1.2.1",
        LOST,
    ),
    Row("compare.*_unmapped", "2/85", "0/04", "4.6.1.2.1", LOST),
    Row(
        "read.odd_offset",
        "0/00",
        "0/13",
        "4.3, 4.6.1.2.1",
        "an offset that is no multiple of 4 may be a PRP Offset Invalid",
        optional=True,
    ),
    Row(
        "read.too_long write.too_long",
        "0/00",
        "0/02",
        "5.15.2.2, MDTS",
        "the limit is in pages of the smallest size (CAP.MPSMIN); QEMU takes pages of CC.MPS",
    ),
    Row("compare.too_long", "2/85", "0/02", "5.15.2.2, MDTS", "the same"),
    Row(
        "read.sgl_chain write.sgl_chain",
        "0/0d",
        "0/00",
        "4.4",
        "segments may follow one another; QEMU looks for the third where the second has been read over the first",
    ),
    Row("sgl.type", "0/0d", "0/11", "4.6.1.2.1", "a type that is not supported is an SGL Descriptor Type Invalid"),
    Row("sgl.subtype", "0/00", "0/11", "4.6.1.2.1", "so is a type with a subtype that is not supported"),
    Row(
        "sgl.data_in_last_place",
        "0/00",
        "0/0d",
        "4.4",
        "a segment that is not the last ends with a descriptor of the next",
    ),
    # --- namespaces and blocks ---
    Row(
        "*.nsid_inactive",
        "0/02",
        LEFT_OUT,
        "6.1.4",
        "QEMU has 256 namespaces, 253 of them inactive here",
        optional=True,
    ),
    Row(
        "dsm.at_end dsm.across_end dsm.far dsm.overflow*",
        "0/00",
        "0/80",
        "6.7, 4.6.1.2.1",
        "a range beyond the capacity is LBA Out of Range; QEMU passes over it",
        optional=True,
    ),
    # --- queues ---
    Row("create_sq.cq_zero create_sq.cq_beyond", "1/00", "1/01", "5.4", SUBMISSION),
    Row(
        "delete_cq.zero delete_cq.beyond delete_cq.missing",
        "1/00",
        "1/01",
        "5.5",
        "a queue that is not there is an Invalid Queue Identifier; there is no Completion Queue Invalid",
    ),
    # --- what is told ---
    Row("identify.io_command_set", "0/00", "0/02", "5.15.1, 1.7", "CNS 06h is reserved in 1.4; QEMU has it of 2.0"),
    Row("identify.allocated", "0/00", "0/02", "5.15.1, OACS", UNMANAGED, optional=True),
    Row("namespace.attachment", "0/0b", "0/01", "5.19, OACS", UNMANAGED, optional=True),
    Row("admin.optional", "0/02", "0/01", "5.22", "QEMU has Virtualization Management", optional=True),
    Row("log.unknown", "0/02", "1/09", "5.14", "a log page that is not supported is an Invalid Log Page"),
    Row(
        "log.2_of_namespace log.2_beyond_namespaces",
        "0/00|0/0b",
        "0/02",
        "5.14.1.2, LPA",
        "iommud has no health of single namespaces",
        optional=True,
    ),
    Row(
        "log.*_longer",
        "0/13",
        "0/00",
        "4.3",
        "PRP 2 is a list if the command's data has more than two pages; QEMU goes by the length of the log",
    ),
    Row("abort.event", "0/00 left", "0/00 aborted", "5.1", "a command may be aborted, or not", optional=True),
    Row("format.erase_reserved", "0/00", "0/02", "5.23, 1.7", RESERVED),
    # --- features ---
    Row("get.select_reserved", "0/00", "0/02", "5.13, 1.7", RESERVED),
    Row("set.temperature_no_sensor", "0/00", "0/02", "5.21.1.4, 1.7", RESERVED),
    Row(
        "set.arbitration set.atomicity set.coalescing set.power set.vector",
        "1/0e",
        "0/00",
        "5.21, 7.8",
        FEATURE,
        optional=True,
    ),
    Row("set.power_beyond set.vector_beyond", "1/0e", "0/02", "5.21.1.2, 5.21.1.9", FEATURE, optional=True),
    Row("get.*.current", "0/00 (0x)?[0-9a-f]+ INSTEAD OF .*", "0/00 right", "7.8", FORGOTTEN),
    Row(
        "get.write_cache.default get.write_cache.saved",
        "0/00 0 INSTEAD OF 0x1",
        "0/00 right",
        "7.8",
        "the default does not change; QEMU tells the current value",
    ),
)

# Lines of nvme_basic that are others than QEMU's.
BASIC: Final = {
    # After a function level reset registers are as at first (7.3.2); QEMU keeps the admin queues'.
    "after a reset: CC 0, CSTS 0, AQA 0xf000f, ASQ 0x10000000, ACQ 0x200008000": (
        "after a reset: CC 0, CSTS 0, AQA 0, ASQ 0, ACQ 0"
    ),
}
