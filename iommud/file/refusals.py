"""System calls that Linux's own files refuse, and that FUSE answers by itself: mmap(2), and reads
and writes of 0 bytes.

If there is a watcher (cuse_glue.watch.watcher), it asks about them here. Calls that FUSE answers as
Linux does are let through: those that are refused before the file is asked (lengths, addresses, how
the file was opened), and those that succeed.

Ref: v7.3 main.c iommufd_fops_mmap, eventq.c, selftest.c iommfd_test_staccess_fops; mm/mmap.c
do_mmap; fs/read_write.c vfs_read
"""

import os
from errno import EBADF, EINVAL, ENODEV, ENXIO, EPERM, ESPIPE
from typing import Final

from cuse_glue.request import inline
from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile
from cuse_glue.system.seccomp import (
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
    PROT_EXEC,
    PROT_WRITE,
)
from cuse_glue.watch.questions import Call

from ..engine.memory.host import Host
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError
from ..ops.dma_buf import GivenDmaBuf
from ..ops.fault import FaultFile
from ..ops.queue_file import QueueFile
from ..ops.why import Why
from .descriptors import GivenFile
from .device_file import IommuFile
from .vfio_container import ContainerFile
from .vfio_file import VfioFile
from .vfio_group_file import GroupFile

# The most that any process has room for (bytes). User addresses are below USER_END, the kernel's
# above.
ADDRESS_SPACE: Final = 1 << 47
USER_END: Final = 1 << 63
# Flags that mean something in mmap(2) of any file. MAP_SHARED_VALIDATE refuses others.
KNOWN_FLAGS: Final = 0x1F | 0x20 | 0x40 | 0x80 | 0x100 | 0x800 | 0x1000 | 0x3E000 | MAP_HUGETLB | 21 << 26 | 30 << 26
READS: Final = frozenset(("read", "pread64", "readv"))
AT_A_POSITION: Final = frozenset(("pread64", "pwrite64"))
OF_A_LIST: Final = frozenset(("readv", "writev"))


class Refusals:
    """The cuse_glue.watch.questions.Watched of our files. `why` gets one line for each mmap that is
    refused.
    """

    def __init__(self, watcher: int, host: Host, why: Why | None = None) -> None:
        self.watcher: Final = watcher
        self._shown = host.shown
        self._why = why

    def refusal(self, file: OpenFile, call: Call) -> int:
        """As Watched.refusal. mmap: ENXIO (not exactly a range that was offered), EINVAL (private,
        or opened read-only), EPERM (to execute), ENODEV (a file that cannot be mapped); of a VFIO
        device what Regions.map says. Reads and writes of 0 bytes: EBADF (not opened for that),
        ESPIPE (at a position, in a file that has none), or what the file itself answers (EINVAL).
        """
        try:
            if call.name == "mmap":
                self._check_mmap(file, call)
            else:
                _check_empty(file, call)
        except IoctlError as refusal:
            if self._why is not None:
                self._why.refused(Caller(call.tid, 0, 0), call.name, refusal)
            return refusal.errno
        except OSError as refusal:
            return refusal.errno or EINVAL
        return 0

    def _check_mmap(self, file: OpenFile, call: Call) -> None:
        if _is_refused_for_any_file(call):
            return
        _, length, prot, flags, _, offset = call.arguments
        if isinstance(file, VfioFile):
            shared = flags & MAP_TYPE != MAP_PRIVATE
            file.file.access().opened.regions.map(offset, _whole_pages(length), shared=shared)
            return
        if isinstance(file, GroupFile):
            raise IoctlError(ENODEV, "a group cannot be mapped, only its devices")
        if isinstance(file, ContainerFile):
            raise IoctlError(ENODEV, "a container of VFIO's own cannot be mapped")
        if not isinstance(file, IommuFile):
            if prot & PROT_EXEC:
                raise IoctlError(EPERM, "no file without a name can be mapped to run it")
            if isinstance(file, GivenFile) and isinstance(file.behind, GivenDmaBuf):
                raise IoctlError(EINVAL, "a dma-buf of the mock's cannot be mapped")
            raise IoctlError(ENODEV, "this descriptor cannot be mapped")
        if flags & MAP_GROWSDOWN:
            return
        if flags & MAP_TYPE == MAP_PRIVATE:
            raise IoctlError(EINVAL, "the device cannot be mapped MAP_PRIVATE")
        if call.flags & os.O_ACCMODE != os.O_RDWR:
            raise IoctlError(EINVAL, "the device must be open for reading and writing to be mapped")
        if prot & PROT_EXEC:
            raise IoctlError(EPERM, "the device cannot be mapped PROT_EXEC")
        length = _whole_pages(length)
        if not self._shown.is_range(file.context, offset, length):
            raise IoctlError(
                ENXIO, f"{offset:#x}+{length:#x} is not exactly a range that VIOMMU_ALLOC offered on this file"
            )


def _is_refused_for_any_file(call: Call) -> bool:
    """Whether the kernel refuses a mapping before it asks the file, ours or a real one."""
    address, length, prot, flags, _, offset = call.arguments
    kind = flags & MAP_TYPE
    mode = call.flags & os.O_ACCMODE
    return (
        offset % PAGE_SIZE != 0
        or not 0 < length <= ADDRESS_SPACE
        or offset + _whole_pages(length) >= 1 << 64
        or bool(flags & MAP_HUGETLB)
        or bool(flags & MAP_FIXED and address % PAGE_SIZE)
        or kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE)
        or bool(kind == MAP_SHARED_VALIDATE and flags & ~KNOWN_FLAGS)
        or mode not in (os.O_RDONLY, os.O_RDWR)
        or bool(kind != MAP_PRIVATE and prot & PROT_WRITE and mode != os.O_RDWR)
    )


def _whole_pages(length: int) -> int:
    return -(-length // PAGE_SIZE) * PAGE_SIZE


def _check_empty(file: OpenFile, call: Call) -> None:
    """Check a read or write of 0 bytes. OSError: what it fails with."""
    reads = call.name in READS
    if call.name in AT_A_POSITION:
        if call.arguments[3] >> 63:
            return
        if not isinstance(file, IommuFile | VfioFile | GroupFile):
            raise OSError(ESPIPE, os.strerror(ESPIPE))
    if call.flags & os.O_ACCMODE not in (os.O_RDWR, os.O_RDONLY if reads else os.O_WRONLY):
        raise OSError(EBADF, os.strerror(EBADF))
    if isinstance(file, QueueFile if reads else FaultFile) and (
        call.name in OF_A_LIST or call.arguments[1] >= USER_END
    ):
        return
    nobody = Caller(0, 0, 0)
    inline.start(file.read(nobody, 0, 0, nonblocking=True) if reads else file.write(nobody, 0, b"", nonblocking=True))
