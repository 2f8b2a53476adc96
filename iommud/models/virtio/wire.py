"""Names of virtio, and its structs as they lie in registers and in memory, little-endian.

Ref: Virtual I/O Device (VIRTIO) 1.2, sections 2.1, 2.2, 2.7, 2.8, 4.1.4, 5.2, 6
"""

import struct
from typing import Final

VENDOR: Final = 0x1AF4
FIRST_DEVICE: Final = 0x1040  # the PCI device ID is this and the kind of device
BLOCK: Final = 2  # kind of device

# Bits of the device status.
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 0x01, 0x02, 0x04, 0x08
DEVICE_NEEDS_RESET, FAILED = 0x40, 0x80

# Features that are no device's own, as bits.
INDIRECT_DESC: Final = 1 << 28
EVENT_IDX: Final = 1 << 29
VERSION_1: Final = 1 << 32
ACCESS_PLATFORM: Final = 1 << 33
RING_PACKED: Final = 1 << 34
IN_ORDER: Final = 1 << 35
NOTIFICATION_DATA: Final = 1 << 38
RING_RESET: Final = 1 << 40

# Kinds of a vendor's capability, each of which says where registers are.
COMMON_CFG, NOTIFY_CFG, ISR_CFG, DEVICE_CFG, PCI_CFG = 1, 2, 3, 4, 5
CAPABILITY: Final = struct.Struct("<BB3xII")  # from its fourth byte on: kind, BAR, offset, length
CAPABILITY_BAR, CAPABILITY_OFFSET, CAPABILITY_LENGTH, CAPABILITY_DATA = 4, 8, 12, 16  # from its first byte on

QUEUE_INTERRUPT, CONFIG_INTERRUPT = 0x01, 0x02  # of the ISR status
NO_VECTOR: Final = 0xFFFF

# Descriptors, of both kinds of rings.
DESCRIPTOR: Final = struct.Struct("<QIHH")  # IOVA, bytes, flags, next; packed: IOVA, bytes, ID, flags
NEXT, WRITE, INDIRECT = 0x0001, 0x0002, 0x0004
AVAIL, USED = 1 << 7, 1 << 15  # packed

# A split ring's available and used rings: flags and index come first.
RING_HEAD: Final = struct.Struct("<HH")
USED_ELEMENT: Final = struct.Struct("<II")
NO_INTERRUPT, NO_NOTIFY = 0x0001, 0x0001  # of available, of used

# A packed ring's event suppression, the driver's and the device's.
EVENTS: Final = struct.Struct("<HH")  # offset and wrap counter, flags
EVENTS_ON, EVENTS_OFF, EVENTS_AT = 0, 1, 2
WRAP: Final = 1 << 15

# The block device.
BLK_SIZE_MAX: Final = 1 << 1
BLK_SEG_MAX: Final = 1 << 2
BLK_RO: Final = 1 << 5
BLK_BLK_SIZE: Final = 1 << 6
BLK_FLUSH: Final = 1 << 9
BLK_TOPOLOGY: Final = 1 << 10
BLK_CONFIG_WCE: Final = 1 << 11
BLK_MQ: Final = 1 << 12
BLK_DISCARD: Final = 1 << 13
BLK_WRITE_ZEROES: Final = 1 << 14
# capacity, size_max, seg_max, geometry (4), blk_size, topology (8), writeback, num_queues,
# discard (sectors, segments, alignment), write zeroes (sectors, segments, may unmap)
BLK_CONFIG: Final = struct.Struct("<QII4xIBBHIBxHIIIIIB3x")
BLK_WRITEBACK: Final = 32  # where it is
BLK_REQUEST: Final = struct.Struct("<I4xQ")  # type, sector
BLK_RANGE: Final = struct.Struct("<QII")  # sector, sectors, flags
UNMAP: Final = 0x0001  # of a range's flags
SECTOR: Final = 512
ID_BYTES: Final = 20
T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
