"""The processes' side of the engine's `Origin`: cuse_glue's sources, whose refusals become the client's errno here.

What a client mapped from, or a file of its own, is one `Source` for as long as anything remembers it; so is the `ProcessOrigin` around it.
"""

from collections.abc import Callable, Hashable, Iterable
from errno import EFAULT, EMFILE, ENFILE, ENOMEM
from typing import Any, Concatenate, ParamSpec, TypeVar

from cuse_glue.caller import Caller, forget_threads
from cuse_glue.pin import Refused
from cuse_glue.source import Pin, Source, Sources

from ..engine.pages import Identity, Origin, Stretch
from ..errors import IoctlError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def _refusing(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Refused -> IoctlError."""

    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except Refused as refusal:
            raise IoctlError(refusal.errno, refusal.why) from None

    return wrapped


class ProcessPin:
    """A pin of a process's memory, or of its file."""

    __slots__ = ("_pin",)

    def __init__(self, pin: Pin) -> None:
        self._pin = pin

    @_refusing
    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._pin.read_into(offset, buffer)

    @_refusing
    def write_from(self, offset: int, data: memoryview) -> None:
        self._pin.write_from(offset, data)

    @_refusing
    def identity(self, offset: int) -> Identity:
        return _identity(self._pin.identity(offset))

    def stretches(self) -> Iterable[Stretch]:
        for identity, length, page_size in self._pin.stretches():
            yield Stretch(*_identity(identity), length, page_size)

    def close(self) -> None:
        self._pin.close()


class ProcessOrigin:
    """Around one source. Among the `known` as long as anybody holds it."""

    __slots__ = ("_holders", "_known", "is_file", "mm", "source", "uid")

    def __init__(self, source: Source, known: "dict[Source, ProcessOrigin]") -> None:
        self.source = source
        self.is_file = source.is_file
        self.uid = source.uid
        self.mm: Hashable = source.mm
        self._known = known
        self._holders = 0

    def hold(self) -> None:
        self._holders += 1
        if self._holders == 1:
            self.source.hold()
            self._known[self.source] = self

    def drop(self) -> None:
        self._holders -= 1
        if not self._holders:
            if self._known.get(self.source) is self:
                del self._known[self.source]
            self.source.drop()

    @_refusing
    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> ProcessPin:
        return ProcessPin(self.source.pin(start, length, writable, brief=brief))

    @_refusing
    def read_now(self, address: int, buffer: memoryview) -> None:
        self.source.read_now(address, buffer)

    @_refusing
    def write_now(self, address: int, data: memoryview) -> None:
        self.source.write_now(address, data)

    def alive(self) -> bool:
        return self.source.alive()

    def memlock_limit(self) -> int | None:
        return self.source.memlock_limit()

    def locked_pages(self) -> int:
        return self.source.locked_pages()

    def pinned(self, npages: int, locked: bool) -> None:
        if npages:
            self.source.pinned(npages, locked)


class ProcessOrigins:
    """`Origins` of ops.request for real processes."""

    def __init__(self, *, true_pins: bool = False, harmless_filters: int | None = None) -> None:
        """As `Sources`."""
        self._sources = Sources(true_pins=true_pins, harmless_filters=harmless_filters)
        self.true_pins = self._sources.true_pins
        self._origins: dict[Source, ProcessOrigin] = {}

    def address_space(self, caller: Caller) -> ProcessOrigin:
        return self._origin(self._with_descriptors(lambda: self._sources.address_space(caller)))

    def file(self, caller: Caller, number: int) -> ProcessOrigin:
        return self._origin(self._with_descriptors(lambda: self._sources.file(caller, number)))

    def moved(self, caller: Caller, origin: Origin) -> ProcessOrigin:
        assert isinstance(origin, ProcessOrigin)
        source = origin.source
        return self._origin(self._with_descriptors(lambda: self._sources.moved(caller, source)))

    def page_identity(self, caller: Caller, address: int) -> Identity:
        try:
            return _identity(self._with_descriptors(lambda: self._sources.page_identity(caller, address)))
        except Refused as refusal:
            raise IoctlError(refusal.errno, refusal.why) from None
        except OSError as error:
            raise IoctlError(EFAULT, f"the caller's memory is out of reach: {error}") from None

    def forget_callers(self) -> None:
        """Close what is kept about callers that nothing remembers; it is opened again when they call."""
        self._sources.close()
        forget_threads()

    def _with_descriptors(self, look: Callable[[], R]) -> R:
        """Our own descriptors may run out where the kernel has no such limit: what is only kept goes first, then it is ENOMEM."""
        for attempt in 1, 2:
            try:
                return look()
            except OSError as error:
                if error.errno not in (EMFILE, ENFILE):
                    raise
                if attempt == 1:
                    self.forget_callers()
        raise IoctlError(ENOMEM, "iommud has no descriptors left (raise its RLIMIT_NOFILE)")

    def _origin(self, source: Source) -> ProcessOrigin:
        return self._origins.get(source) or ProcessOrigin(source, self._origins)


def _identity(known: tuple[Any, ...]) -> Identity:
    return known[:-1], known[-1]
