"""The admin commands.

Ref: NVM Express Base Specification 1.4 section 5
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ...pci.function import DmaFault
from ..disk import why_failed
from ..disk_work import Job
from . import events as e
from . import wire as w
from .command import Command
from .events import Events
from .features import Features
from .identify import MOST_TRANSFER, Names, identify
from .logs import Logs
from .namespace import FORMATS, Namespace
from .pairs import Pairs
from .queues import SubmissionQueue
from .shadows import Shadows
from .wire import ALL_NAMESPACES, Failed

_RETAIN: Final = 1 << 15  # of Get Log Page: the event stays quiet
_SES, _PI = 9, 5  # of Format NVM: secure erase, protection information
_USER_DATA_ERASE: Final = 1


class Controller(Protocol):
    """What the commands need of the rest. DmaFault: memory cannot be reached."""

    page: int  # bytes of the host's

    def get(self, command: Command, length: int) -> bytes:
        """The command's data, from the host."""

    def put(self, command: Command, data: bytes) -> None:
        """The command's data, to the host."""

    def forget(self, sq: SubmissionQueue) -> None:
        """End all its commands that are under way."""

    def abort(self, sqid: int, cid: int) -> bool:
        """End a command that is under way; False: there is none."""

    def later(self, command: Command, job: Job) -> None:
        """The command is under way until its job calls `finish`."""

    def finish(self, command: Command, status: int) -> None:
        """A command that was under way ends."""

    def say(self, sentence: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the commands are about."""

    names: Names
    namespaces: list[Namespace]
    pairs: Pairs
    features: Features
    logs: Logs
    events: Events
    shadows: Shadows | None  # None: it has none


class Admin:
    def __init__(self, controller: Controller, parts: Parts) -> None:
        self._controller: Final = controller
        self._of: Final = parts
        self._commands: Final[dict[int, Callable[[Command], int | None]]] = {
            w.DELETE_SQ: self._delete_sq,
            w.CREATE_SQ: self._create_sq,
            w.GET_LOG_PAGE: self._get_log_page,
            w.DELETE_CQ: self._delete_cq,
            w.CREATE_CQ: self._create_cq,
            w.IDENTIFY: self._identify,
            w.ABORT: self._abort,
            w.SET_FEATURES: self._set_features,
            w.GET_FEATURES: self._get_features,
            w.ASYNC_EVENT_REQUEST: self._async_event_request,
            w.FORMAT_NVM: self._format,
        }
        if parts.shadows is not None:
            self._commands[w.DOORBELL_BUFFER_CONFIG] = self._doorbell_buffer_config

    def run(self, command: Command) -> int | None:
        """Dword 0 of the completion; None: it is not complete yet. Failed, DmaFault."""
        if command.fused or command.psdt:
            raise Failed(w.INVALID_FIELD)
        do = self._commands.get(command.opcode)
        if do is None:
            raise Failed(w.INVALID_OPCODE)
        return do(command)

    def _delete_sq(self, command: Command) -> int:
        self._controller.forget(self._of.pairs.delete_sq(command))
        return 0

    def _create_sq(self, command: Command) -> int:
        self._of.pairs.create_sq(command, self._controller.page)
        return 0

    def _delete_cq(self, command: Command) -> int:
        self._of.pairs.delete_cq(command)
        return 0

    def _create_cq(self, command: Command) -> int:
        self._of.pairs.create_cq(command, self._controller.page)
        return 0

    def _identify(self, command: Command) -> int:
        of = self._of
        data = identify(command.cdw10 & 0xFF, command.nsid, of.names, of.namespaces, shadows=of.shadows is not None)
        self._controller.put(command, data)
        return 0

    def _get_log_page(self, command: Command) -> int:
        number = command.cdw10 & 0xFF
        length = ((command.cdw10 >> 16 | (command.cdw11 & 0xFFFF) << 16) + 1) * 4
        offset = command.cdw12 | command.cdw13 << 32
        page = self._of.logs.page(number, command.nsid)
        if offset & 3 or offset >= len(page):
            raise Failed(w.INVALID_FIELD)
        if length > MOST_TRANSFER:
            raise Failed(w.INVALID_FIELD)
        self._controller.put(command, page[offset : offset + length].ljust(length, b"\0"))
        if not command.cdw10 & _RETAIN:
            self._of.events.read(number)
        return 0

    def _abort(self, command: Command) -> int:
        sqid, cid = command.cdw10 & 0xFFFF, command.cdw10 >> 16
        if sqid not in self._of.pairs.sq:
            raise Failed(w.INVALID_FIELD)
        return 0 if self._controller.abort(sqid, cid) else 1

    def _set_features(self, command: Command) -> int:
        of, controller = self._of, self._controller
        result = of.features.set(
            command.nsid,
            command.cdw10,
            command.cdw11,
            has_queues=of.pairs.has_io,
            data=lambda length: controller.get(command, length),
        )
        if of.logs.warnings & of.features.reported_warnings:
            of.events.happen(e.HEALTH, e.TEMPERATURE)
        return result

    def _get_features(self, command: Command) -> int:
        return self._of.features.get(
            command.nsid, command.cdw10, command.cdw11, put=lambda data: self._controller.put(command, data)
        )

    def _async_event_request(self, command: Command) -> None:
        self._of.events.request(command.cid)

    def _doorbell_buffer_config(self, command: Command) -> int:
        shadows, pairs = self._of.shadows, self._of.pairs
        assert shadows is not None
        if command.prp1 & self._controller.page - 1 or command.prp2 & self._controller.page - 1:
            raise Failed(w.INVALID_FIELD)
        shadows.begin(command.prp1, command.prp2)
        try:
            shadows.ring_at(pairs.cq[0], pairs.cq[0].head)
        except DmaFault:
            shadows.reset()
            raise
        return 0

    def _format(self, command: Command) -> None:
        namespaces = self._of.namespaces
        number, erase = command.cdw10 & 0xF, command.cdw10 >> _SES & 7
        if command.nsid != ALL_NAMESPACES:
            if not 1 <= command.nsid <= len(namespaces):
                raise Failed(w.INVALID_NAMESPACE)
            namespaces = [namespaces[command.nsid - 1]]
        if number >= len(FORMATS) or command.cdw10 >> _PI & 7:
            raise Failed(w.FORMAT_INVALID)
        if erase > _USER_DATA_ERASE:
            raise Failed(w.INVALID_FIELD)
        if namespaces[0].disk.readonly:
            raise Failed(w.WRITE_PROTECTED)
        for each in namespaces:
            each.formatting = True
        self._controller.later(command, self._formatting(command, namespaces, number))

    def _formatting(self, command: Command, namespaces: list[Namespace], number: int) -> Job:
        failed: list[OSError] = []

        def run() -> None:
            try:
                for each in namespaces:
                    each.disk.zero(each.start, each.size, free=True)
            except OSError as error:
                failed.append(error)

        def done() -> None:
            for each in namespaces:
                each.formatting = False
                if not failed:
                    each.shift = FORMATS[number]
            if failed:
                self._controller.say(f"cannot be formatted: {why_failed(failed[0])}")
            self._controller.finish(command, w.WRITE_FAULT if failed else w.SUCCESS)

        return Job(run, done)
