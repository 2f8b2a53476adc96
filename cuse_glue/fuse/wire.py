"""The FUSE protocol as bytes: the structs that a session can meet, of a device file or of a small
file system.

/dev/fuse and /dev/cuse speak it alike (protocol 7.x, `linux/fuse.h`). Every request is a header of
40 bytes and a body; every reply is a header of 16 bytes and a body. All integers are in the
machine's byte order (little-endian on the machines that we support). This module only knows
layouts; the session decides what is answered.
"""

from struct import Struct
from typing import Final

PROTOCOL_MAJOR: Final = 7
PROTOCOL_MINOR: Final = 38
CUSE_MINOR: Final = 31

# Opcodes
LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
SETATTR: Final = 4
READLINK: Final = 5
SYMLINK: Final = 6
MKNOD: Final = 8
MKDIR: Final = 9
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
LINK: Final = 13
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
STATFS: Final = 17
RELEASE: Final = 18
FSYNC: Final = 20
INIT: Final = 26
OPENDIR: Final = 27
READDIR: Final = 28
RELEASEDIR: Final = 29
FSYNCDIR: Final = 30
CREATE: Final = 35
INTERRUPT: Final = 36
DESTROY: Final = 38
IOCTL: Final = 39
POLL: Final = 40
BATCH_FORGET: Final = 42
FALLOCATE: Final = 43
RENAME2: Final = 45
CUSE_INIT: Final = 4096

NOTIFY_POLL: Final = 1
NOTIFY_INVAL_INODE: Final = 2
NOTIFY_STORE: Final = 4

# INIT flags
ATOMIC_O_TRUNC: Final = 1 << 3  # O_TRUNC comes with OPEN
BIG_WRITES: Final = 1 << 5
INIT_EXT: Final = 1 << 30
# INIT flags2
DIRECT_IO_ALLOW_MMAP: Final = 1 << 4

# OPEN reply flags
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6  # one that waits holds up no other

# IOCTL request flags

READ_LOCKOWNER: Final = 1 << 1  # READ request flags: it has an owner, so it is a process that reads
WRITE_CACHE: Final = 1 << 0  # WRITE request flags: of a mapping

POLL_SCHEDULE_NOTIFY: Final = 1 << 0

# SETATTR `valid` bits
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_FH: Final = 1 << 6

IN_HEADER: Final = Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen padding
OUT_HEADER: Final = Struct("<IiQ")  # len error unique

# major minor max_readahead flags (flags2 and 11 spare words may follow)
INIT_IN: Final = Struct("<IIII")
INIT_OUT: Final = Struct("<IIIIHHIIHHIIH22x")
CUSE_INIT_IN: Final = Struct("<IIII")  # major minor unused flags
# major minor unused flags max_read max_write dev_major dev_minor
CUSE_INIT_OUT: Final = Struct("<IIIIIIII40x")

ATTR: Final = Struct("<6Q10I")  # ino size blocks atime mtime ctime, their nsec, mode nlink uid gid rdev blksize flags
ATTR_HEAD: Final = Struct("<QII")  # valid seconds, nsec, dummy
ATTR_OUT: Final = Struct("<QII6Q10I")  # ATTR_HEAD and ATTR
ENTRY_OUT: Final = Struct("<QQQQII")  # nodeid generation entry_valid attr_valid, their nsec; then ATTR
DIRENT: Final = Struct("<QQII")  # ino, offset of the next, length of the name, type; then the name
SETATTR_IN: Final = Struct("<IIQQQQQQIIIIIIII")
OPEN_IN: Final = Struct("<II")  # flags open_flags
OPEN_OUT: Final = Struct("<QIi")  # fh open_flags backing_id
RELEASE_IN: Final = Struct("<QIIQ")  # fh flags release_flags lock_owner
IOCTL_IN: Final = Struct("<QIIQII")  # fh flags cmd arg in_size out_size
IOCTL_OUT: Final = Struct("<iIII")  # result flags in_iovs out_iovs
IOCTL_REPLY: Final = Struct("<IiQiIII")  # OUT_HEADER and IOCTL_OUT in one, for the hot path
READ_IN: Final = Struct("<QQIIQII")  # fh offset size read_flags lock_owner flags padding
WRITE_IN: Final = Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT: Final = Struct("<II")  # size padding
POLL_IN: Final = Struct("<QQII")  # fh kh flags events
POLL_OUT: Final = Struct("<II")  # revents padding
INTERRUPT_IN: Final = Struct("<Q")  # unique of the request to interrupt
# blocks bfree bavail files ffree bsize namelen frsize padding
STATFS_OUT: Final = Struct("<QQQQQIIII24x")
NOTIFY_POLL_OUT: Final = Struct("<Q")  # kh
NOTIFY_INVAL_INODE_OUT: Final = Struct("<Qqq")  # nodeid offset length
NOTIFY_STORE_OUT: Final = Struct("<QQII")  # nodeid offset size padding
INIT_FLAGS2: Final = Struct("<I")  # behind INIT_IN

REQUEST_HEADER_SIZE: Final = IN_HEADER.size
_opcode: Final = Struct("<4xI").unpack_from  # in IN_HEADER
_unique: Final = Struct("<8xQ").unpack_from  # in IN_HEADER
_pid: Final = Struct("<32xI").unpack_from  # in IN_HEADER
REPLY_HEADER_SIZE: Final = OUT_HEADER.size


def opcode_of(request: bytes | bytearray | memoryview) -> int:
    """What the request is for."""
    return int(_opcode(request)[0])


def unique_of(request: bytes | bytearray | memoryview) -> int:
    """The number of the request; later ones have higher numbers."""
    return int(_unique(request)[0])


def pid_of(request: bytes | bytearray | memoryview) -> int:
    """The thread that the request came from."""
    return int(_pid(request)[0])


def reply(unique: int, error: int, body: bytes = b"") -> bytes:
    """One reply: `error` is 0 or a negative errno; with an error there is no body (the kernel
    refuses one).
    """
    return OUT_HEADER.pack(REPLY_HEADER_SIZE + len(body), error, unique) + body


def ioctl_reply(unique: int, result: int) -> bytes:
    """The reply to IOCTL: `result` is what ioctl(2) returns, any int of 32 bits, or -errno."""
    return IOCTL_REPLY.pack(IOCTL_REPLY.size, 0, unique, result, 0, 0, 0)


def notify_poll(handle: int) -> bytes:
    """A message of our own (unique 0). It wakes those who poll the file with this kernel handle."""
    return OUT_HEADER.pack(REPLY_HEADER_SIZE + NOTIFY_POLL_OUT.size, NOTIFY_POLL, 0) + NOTIFY_POLL_OUT.pack(handle)


def notify_store(inode: int, offset: int, data: bytes) -> bytes:
    """A message of our own that puts bytes of the file into the page cache. The file grows to where
    they end.
    """
    body = NOTIFY_STORE_OUT.pack(inode, offset, len(data), 0) + data
    return OUT_HEADER.pack(REPLY_HEADER_SIZE + len(body), NOTIFY_STORE, 0) + body


def notify_inval_inode(inode: int, offset: int, length: int) -> bytes:
    """A message of our own that takes bytes of the file out of the page cache. What somebody wrote
    there comes first, as a WRITE; the write of this message waits for that WRITE.
    """
    body = NOTIFY_INVAL_INODE_OUT.pack(inode, offset, length)
    return OUT_HEADER.pack(REPLY_HEADER_SIZE + len(body), NOTIFY_INVAL_INODE, 0) + body


def attr_out(*, inode: int, mode: int, uid: int, gid: int, seconds_valid: int, size: int = 0) -> bytes:
    """Attributes of the one file: a regular file of `size` bytes."""
    return ATTR_OUT.pack(
        seconds_valid, 0, 0, inode, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, uid, gid, 0, 4096, 0,
    )  # fmt: skip


def dirent(inode: int, offset: int, kind: int, name: bytes) -> bytes:
    """One entry of a directory, for READDIR. `offset`: where READDIR goes on behind it. `kind`: the
    type, as in S_IFMT.
    """
    record = DIRENT.pack(inode, offset, len(name), kind >> 12) + name
    return record + bytes(-len(record) % 8)
