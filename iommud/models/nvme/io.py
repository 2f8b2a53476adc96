"""The NVM command set: what reads and writes blocks.

A command is done at once if that needs no waiting: its data is in memory, as most reads are. If not
it ends when its job has been done in a thread, which has its bytes by itself. Memory of the host is
only touched here, not in threads, because a mapping may go away at any time.

Ref: NVM Express Base Specification 1.4 section 6
"""

import errno
from collections.abc import Callable
from struct import iter_unpack
from typing import Final

from ...pci.function import DmaFault, PciFunction
from ...pci.storage import Disk
from ..disk import why_failed
from ..disk_work import Job
from . import wire as w
from .command import Command
from .features import Features
from .identify import MOST_TRANSFER
from .logs import Logs
from .namespace import Namespace
from .pointer import Stretches, stretches
from .wire import ALL_NAMESPACES, Failed

_FUA: Final = 1 << 30  # of dword 12
_DEALLOCATE: Final = 1 << 25
_DATASET_DEALLOCATE: Final = 1 << 2  # of dword 11
_RANGE: Final = 16  # bytes


class Io:
    """`finish(command, status)` is called by the jobs. `say`: told a sentence about what the disk
    refuses.
    """

    def __init__(
        self,
        function: PciFunction,
        disk: Disk,
        namespaces: list[Namespace],
        features: Features,
        logs: Logs,
        finish: Callable[[Command, int], None],
        say: Callable[[str], None],
    ) -> None:
        self._function: Final = function
        self._disk: Final = disk
        self._namespaces: Final = namespaces
        self._features: Final = features
        self._logs: Final = logs
        self._finish: Final = finish
        self._say: Final = say
        self.page = w.PAGE  # bytes of the host's
        self._commands: Final[dict[int, Callable[[Command, Namespace], Job | None]]] = {
            w.WRITE: self._write,
            w.READ: self._read,
            w.COMPARE: self._compare,
            w.WRITE_ZEROES: self._write_zeroes,
            w.DATASET_MANAGEMENT: self._dataset_management,
            w.VERIFY: self._verify,
        }

    def begin(self, command: Command) -> Job | None:
        """None: it is done, with success. Otherwise its job finishes it. Failed, DmaFault."""
        if command.fused:
            raise Failed(w.INVALID_FIELD)
        nsid, opcode = command.nsid, command.opcode
        if nsid == ALL_NAMESPACES:
            if opcode != w.FLUSH:
                raise Failed(w.INVALID_FIELD)
            return self._flush(command)
        if not 1 <= nsid <= len(self._namespaces):
            raise Failed(w.INVALID_NAMESPACE)
        if opcode == w.FLUSH:
            return self._flush(command)
        do = self._commands.get(opcode)
        if do is None:
            raise Failed(w.INVALID_OPCODE)
        namespace = self._namespaces[nsid - 1]
        if namespace.formatting:
            raise Failed(w.FORMAT_IN_PROGRESS, retry=True)
        return do(command, namespace)

    # --- commands ---

    def _read(self, command: Command, namespace: Namespace) -> Job | None:
        position, length = self._transferred(command, namespace)
        where = stretches(command, length, self.page, self._function.dma_read)
        self._logs.reads += 1
        self._logs.read_bytes += length
        if self._straight(position, length, where, write=True):
            return None
        data = self._disk.read_now(position, length)
        if data is not None:
            self._deliver(where, data)
            return None
        return self._reading(command, position, length, lambda data: self._deliver(where, data))

    def _compare(self, command: Command, namespace: Namespace) -> Job | None:
        position, length = self._transferred(command, namespace)
        expected = self._collect(stretches(command, length, self.page, self._function.dma_read))

        def compare(data: bytes) -> None:
            if data != expected:
                raise Failed(w.COMPARE_FAILURE)

        data = self._disk.read_now(position, length)
        if data is not None:
            compare(data)
            return None
        return self._reading(command, position, length, compare)

    def _verify(self, command: Command, namespace: Namespace) -> Job | None:
        position, length = self._range(namespace, command.slba, command.nlb)
        return self._reading(command, position, length, lambda data: None)

    def _write(self, command: Command, namespace: Namespace) -> Job | None:
        position, length = self._transferred(command, namespace)
        self._writable()
        where = stretches(command, length, self.page, self._function.dma_read)
        self._logs.writes += 1
        self._logs.written_bytes += length
        disk = self._disk
        if disk.is_memory:
            if not self._straight(position, length, where, write=False):
                disk.write(position, self._collect(where))
            return None
        data = self._collect(where)
        lasting = self._lasting(command)

        def run() -> None:
            disk.write(position, data)
            if lasting:
                disk.flush()

        return self._writing(command, run)

    def _write_zeroes(self, command: Command, namespace: Namespace) -> Job | None:
        position, length = self._range(namespace, command.slba, command.nlb)
        self._writable()
        disk, free, lasting = self._disk, bool(command.cdw12 & _DEALLOCATE), self._lasting(command)

        def run() -> None:
            disk.zero(position, length, free=free)
            if lasting:
                disk.flush()

        return self._writing(command, run)

    def _dataset_management(self, command: Command, namespace: Namespace) -> Job | None:
        length = ((command.cdw10 & 0xFF) + 1) * _RANGE
        data = self._collect(stretches(command, length, self.page, self._function.dma_read))
        ranges = [self._range(namespace, slba, nlb) for _, nlb, slba in iter_unpack("<IIQ", data) if nlb]
        if not command.cdw11 & _DATASET_DEALLOCATE:
            return None  # advice that nothing here heeds
        self._writable()
        disk = self._disk

        def run() -> None:
            for position, length in ranges:
                disk.discard(position, length)

        return self._writing(command, run)

    def _flush(self, command: Command) -> Job | None:
        if self._disk.is_memory or self._disk.readonly:
            return None
        return self._writing(command, self._disk.flush)

    # --- checks ---

    def _transferred(self, command: Command, namespace: Namespace) -> tuple[int, int]:
        """Which bytes of the disk: position, length. Failed: too many, or there are none such."""
        if command.nlb << namespace.shift > MOST_TRANSFER:
            raise Failed(w.INVALID_FIELD)
        return self._range(namespace, command.slba, command.nlb)

    @staticmethod
    def _range(namespace: Namespace, slba: int, nlb: int) -> tuple[int, int]:
        if slba + nlb > namespace.blocks:
            raise Failed(w.LBA_OUT_OF_RANGE)
        return namespace.start + (slba << namespace.shift), nlb << namespace.shift

    def _writable(self) -> None:
        if self._disk.readonly:
            raise Failed(w.WRITE_PROTECTED)

    def _lasting(self, command: Command) -> bool:
        return bool(command.cdw12 & _FUA) or not self._features.caches_writes

    # --- data ---

    def _straight(self, position: int, length: int, where: Stretches, *, write: bool) -> bool:
        """Carry it between the disk and memory without a buffer; False: that cannot be done, or not
        at once.
        """
        disk = self._disk
        carry = self._function.dma_file
        if len(where) > 1:
            parts = [(iova, size) for iova, size in where if iova is not None]
            if len(parts) != len(where):
                return False
            return carry(disk.fd, position, parts, write=write, flags=disk.at_once) == length
        iova = where[0][0]
        return (
            iova is not None and carry(disk.fd, position, ((iova, length),), write=write, flags=disk.at_once) == length
        )

    def _deliver(self, where: Stretches, data: bytes) -> None:
        view = memoryview(data)
        for iova, size in where:
            if iova is not None:
                self._function.dma_write(iova, view[:size])
            view = view[size:]

    def _collect(self, where: Stretches) -> bytes:
        found = [self._function.dma_read(iova, size) for iova, size in where if iova is not None]
        return found[0] if len(found) == 1 else b"".join(found)

    # --- jobs ---

    def _reading(self, command: Command, position: int, length: int, use: Callable[[bytes], None]) -> Job:
        result: list[bytes | OSError] = []
        disk = self._disk

        def run() -> None:
            try:
                result.append(disk.read(position, length))
            except OSError as error:
                result.append(error)

        def done() -> None:
            data = result[0]
            if isinstance(data, OSError):
                self._logs.media_errors += 1
                self._say(f"{disk} cannot be read at {position:#x}: {why_failed(data)}")
                self._finish(command, w.UNRECOVERED_READ_ERROR)
                return
            try:
                use(data)
            except Failed as failed:
                self._finish(command, failed.status)
            except DmaFault:
                self._finish(command, w.DATA_TRANSFER_ERROR)
            else:
                self._finish(command, w.SUCCESS)

        return Job(run, done)

    def _writing(self, command: Command, write: Callable[[], None]) -> Job:
        failed: list[OSError] = []

        def run() -> None:
            try:
                write()
            except OSError as error:
                failed.append(error)

        def done() -> None:
            if not failed:
                self._finish(command, w.SUCCESS)
                return
            self._logs.media_errors += 1
            self._say(f"{self._disk} cannot be written: {why_failed(failed[0])}")
            full = failed[0].errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            self._finish(command, w.CAPACITY_EXCEEDED if full else w.WRITE_FAULT)

        return Job(run, done)
