"""The numbers of NVM Express: registers, opcodes, statuses, features, log pages, and the two
entries of queues.

Ref: NVM Express Base Specification 1.4
"""

from struct import Struct
from typing import Final

VERSION: Final = 0x0001_0400

# Registers, section 3.1.
CAP, VS, INTMS, INTMC, CC, CSTS = 0x00, 0x08, 0x0C, 0x10, 0x14, 0x1C
AQA, ASQ, ACQ = 0x24, 0x28, 0x30
DOORBELLS: Final = 0x1000
CAP_CQR, CAP_TO, CAP_DSTRD, CAP_NVM, CAP_MPSMAX = 1 << 16, 24, 32, 1 << 37, 52
CC_EN: Final = 0x1
CC_CSS, CC_MPS, CC_AMS, CC_SHN, CC_IOSQES, CC_IOCQES = 4, 7, 11, 14, 16, 20
CC_WRITABLE: Final = 0x00FF_FFF1
CSTS_RDY, CSTS_CFS, CSTS_SHUTTING_DOWN, CSTS_SHUT_DOWN, CSTS_SHST = 0x1, 0x2, 0x4, 0x8, 0xC

# Admin commands, section 5.
DELETE_SQ, CREATE_SQ, GET_LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT = 0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08
SET_FEATURES, GET_FEATURES, ASYNC_EVENT_REQUEST, DOORBELL_BUFFER_CONFIG, FORMAT_NVM = 0x09, 0x0A, 0x0C, 0x7C, 0x80
# Commands of the NVM command set, section 6.
FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DATASET_MANAGEMENT, VERIFY = 0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0C

# Statuses: type << 8 | code, section 4.6.1.
SUCCESS: Final = 0x000
INVALID_OPCODE, INVALID_FIELD, COMMAND_ID_CONFLICT, DATA_TRANSFER_ERROR = 0x001, 0x002, 0x003, 0x004
ABORT_REQUESTED, SQ_DELETED, INVALID_NAMESPACE, COMMAND_SEQUENCE_ERROR = 0x007, 0x008, 0x00B, 0x00C
SGL_SEGMENT_INVALID, SGL_NUMBER_INVALID, SGL_LENGTH_INVALID, SGL_TYPE_INVALID = 0x00D, 0x00E, 0x00F, 0x011
PRP_OFFSET_INVALID, WRITE_PROTECTED = 0x013, 0x020
LBA_OUT_OF_RANGE, CAPACITY_EXCEEDED, FORMAT_IN_PROGRESS = 0x080, 0x081, 0x084
CQ_INVALID, QUEUE_ID_INVALID, QUEUE_SIZE_INVALID, ABORT_LIMIT_EXCEEDED = 0x100, 0x101, 0x102, 0x103
ASYNC_EVENT_LIMIT_EXCEEDED, INTERRUPT_VECTOR_INVALID, LOG_PAGE_INVALID, FORMAT_INVALID = 0x105, 0x108, 0x109, 0x10A
QUEUE_DELETION_INVALID, FEATURE_NOT_SAVEABLE = 0x10C, 0x10D
FEATURE_NOT_CHANGEABLE, FEATURE_NOT_OF_NAMESPACE = 0x10E, 0x10F
WRITE_FAULT, UNRECOVERED_READ_ERROR, COMPARE_FAILURE = 0x280, 0x281, 0x285
# Of a status in a completion.
MORE, DO_NOT_RETRY = 1 << 13, 1 << 14

# Features, section 5.21.1.
ARBITRATION, POWER_MANAGEMENT, TEMPERATURE_THRESHOLD, ERROR_RECOVERY = 0x01, 0x02, 0x04, 0x05
VOLATILE_WRITE_CACHE, NUMBER_OF_QUEUES, INTERRUPT_COALESCING, INTERRUPT_VECTOR = 0x06, 0x07, 0x08, 0x09
WRITE_ATOMICITY, ASYNC_EVENTS, TIMESTAMP = 0x0A, 0x0B, 0x0E

# Log pages, section 5.14.1.
LOG_ERROR, LOG_SMART, LOG_FIRMWARE, LOG_EFFECTS = 0x01, 0x02, 0x03, 0x05

ALL_NAMESPACES: Final = 0xFFFF_FFFF
SQE: Final = 64  # bytes
CQE: Final = 16
# Opcode, flags, command ID, namespace, data pointer (PRP 1 and 2, or an SGL), dwords 10 to 15.
COMMAND: Final = Struct("<BBHI16xQQ6I")
# Dword 0, dword 1, SQ head, SQ ID, command ID, phase and status.
COMPLETION: Final = Struct("<IIHHHH")
PSDT, FUSE = 0xC0, 0x03  # of the flags
PAGE: Final = 4096  # bytes: the smallest page of a host, and what Identify returns


class Failed(Exception):
    """A command ends with this status. `retry`: it may be different another time."""

    def __init__(self, status: int, *, retry: bool = False) -> None:
        super().__init__(f"status {status:#x}")
        self.status = status
        self.retry = retry
