"""What the tracer does at each kind of stop, some of which no program can bring about at will: the
kernel is a twin that says what the test wants.
"""

import ctypes
import errno
import logging
import os
import signal
from collections.abc import Callable

import pytest
import trio

from cuse_glue.mmio import tracer
from cuse_glue.mmio.decoder import X86_64, Layout
from cuse_glue.mmio.trace import EVENT_STOP, ThreadEnded, ThreadKilled
from cuse_glue.mmio.tracer import Tracer
from tests.support import PATIENCE

TID = os.getpid()  # whose memory the code is in
STORE = ctypes.create_string_buffer(bytes.fromhex("8907") + bytes(64))  # mov [rdi], eax
RAX, RDI = 10, 14
OFFSET = 0x3000
NONE = (1 << 64) - 1


def stop(number: int, event: int = 0) -> int:
    return event << 16 | number << 8 | 0x7F


EVENT = stop(signal.SIGTRAP, EVENT_STOP)


class Kernel:
    """A Hand (cuse_glue.mmio.trace) of one thread."""

    def __init__(self) -> None:
        self.words = [0] * 27
        self.before = [0] * 27  # what the thread comes to its stop with
        self.before[RAX], self.before[RDI], self.before[X86_64.called] = 0x1234, 0x5010, NONE
        self.before[X86_64.pointer] = ctypes.addressof(STORE)
        self.layout: Layout = X86_64
        self.statuses: list[int | type[ThreadEnded] | None] = []
        self.calls: list[tuple[str, int]] = []
        self.pending = False
        self.goes_at = ""
        self.code_of_signal = 0

    def _call(self, name: str, number: int = 0) -> None:
        if name == self.goes_at:
            raise ThreadKilled
        self.calls.append((name, number))

    def seize(self, tid: int, options: int = 0) -> None:
        self._call("seize")

    def interrupt(self, tid: int) -> None:
        self._call("interrupt")

    def status(self, tid: int, *, wait: bool = False) -> int | None:
        found = self.statuses.pop(0) if self.statuses else None
        if found is ThreadEnded:
            raise ThreadEnded
        return found if isinstance(found, int) else None

    def resume(self, tid: int, number: int = 0) -> None:
        self._call("resume", number)

    def detach(self, tid: int, number: int = 0) -> None:
        self._call("detach", number)

    def signal(self, tid: int) -> tuple[int, int, int]:
        return signal.SIGBUS, self.code_of_signal, 0x5010

    def has_signal(self, tid: int, number: int) -> bool:
        return self.pending

    def read_words(self, tid: int) -> None:
        self.words[:] = self.before

    def write_words(self, tid: int) -> None:
        self._call("write")

    def code(self, tid: int, address: int) -> tuple[int, int]:
        first, second = (int.from_bytes(ctypes.string_at(at, 8), "little") for at in (address, address + 7))
        return first, second


class Bench:
    """The tracer, and what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel = Kernel()
        monkeypatch.setattr(tracer, "Hand", lambda: self.kernel)
        monkeypatch.setattr(tracer, "LOOKS", -1)
        monkeypatch.setattr(tracer, "AT_ONCE", -1.0)
        self.why: list[str] = []
        self.tracer = Tracer(self.why.append)
        self.stored: list[tuple[int, int, int]] = []
        self.refused = 0
        self.failure: Exception | None = None
        self.tid = TID
        self.take_back: Callable[[int, int], None] = self._never

    # A device (cuse_glue.mmio.device.Device).

    def load(self, offset: int, size: int) -> int:
        raise AssertionError("nothing is loaded")

    def store(self, offset: int, size: int, value: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.stored.append((offset, size, value))

    def peek(self, offset: int, size: int) -> bytes | None:
        return None

    # A fault (cuse_glue.mmio.device.Fault).

    def _never(self, offset: int, length: int) -> None:
        raise AssertionError("nothing was given")

    def refuse(self) -> None:
        self.refused += 1

    def trap(self, *statuses: int | type[ThreadEnded] | None) -> list[tuple[str, int]]:
        """One READ. What is asked of the kernel then."""
        self.kernel.statuses += statuses
        self.kernel.calls.clear()
        assert self.tracer.trap(self, OFFSET, 4096, self) == b""
        assert self.refused
        return self.kernel.calls

    async def later(self, *statuses: int | type[ThreadEnded] | None) -> list[tuple[str, int]]:
        """What the task finds."""
        self.kernel.statuses += statuses
        self.kernel.calls.clear()
        with trio.fail_after(PATIENCE):
            while self.kernel.statuses:  # noqa: ASYNC110  (the task says nothing)
                await trio.sleep(tracer.MOMENT)
        return self.kernel.calls


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


DONE = [("seize", 0), ("interrupt", 0), ("write", 0), ("detach", 0)]
ACCESS = [(OFFSET + 0x10, 4, 0x1234)]


async def test_a_machine_whose_instructions_are_not_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "_KNOWN", False)
    monkeypatch.setattr(os, "getpid", lambda: TID + 1)  # so that the thread is another's
    assert bench.trap() == []
    assert bench.trap() == []
    assert len(bench.why) == 1, "once, though it tries again"
    assert "are not known: it gets SIGBUS" in bench.why[0]
    assert bench.tracer.why_not(TID) is not None


async def test_a_thread_that_cannot_be_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(tid: int, options: int = 0) -> None:
        raise ProcessLookupError(errno.ESRCH, "nobody")

    monkeypatch.setattr(bench.kernel, "seize", nobody)
    bench.tid = 0
    assert bench.trap() == []
    assert "a pid namespace that we cannot see into: it gets SIGBUS" in bench.why[0]
    assert bench.tracer.why_not(0) is not None


async def test_why_not(bench: Bench) -> None:
    assert bench.tracer.why_not(TID) is None
    with pytest.raises(OSError):
        bench.tracer.why_not(1 << 22)


async def test_the_plain_way(bench: Bench) -> None:
    assert bench.trap(EVENT) == DONE
    assert bench.stored == ACCESS
    assert bench.kernel.words[X86_64.pointer] == ctypes.addressof(STORE) + 2
    assert bench.trap(EVENT) == DONE, "the next one"


async def test_a_stop_that_comes_late(bench: Bench) -> None:
    assert bench.trap(None, None) == DONE[:2]
    assert await bench.later(None, EVENT) == DONE[2:]
    assert bench.stored == ACCESS
    assert bench.trap(EVENT) == DONE


async def test_a_signal_that_stops_it_first_is_handed_over_after_the_access(bench: Bench) -> None:
    assert bench.trap(stop(signal.SIGALRM)) == [*DONE[:3], ("detach", signal.SIGALRM)]
    assert bench.stored == ACCESS


async def test_a_group_stop_is_as_good_as_another(bench: Bench) -> None:
    assert bench.trap(stop(signal.SIGSTOP, EVENT_STOP)) == DONE
    assert bench.stored == ACCESS


@pytest.mark.parametrize(("code", "handed_over"), [(2, 0), (0, signal.SIGBUS), (-6, signal.SIGBUS)])
async def test_the_sigbus_of_our_answer_is_kept_from_it_and_others_are_not(
    bench: Bench, code: int, handed_over: int
) -> None:
    bench.kernel.code_of_signal = code
    assert bench.trap(stop(signal.SIGBUS)) == [*DONE[:3], ("detach", handed_over)]
    assert bench.stored == ACCESS


async def test_a_sigbus_that_waits_already_is_kept_from_it(bench: Bench) -> None:
    """A second READ was refused before the stop: the kernel may have raised it."""
    bench.trap(None)
    bench.kernel.pending = True
    assert bench.trap(None, EVENT) == [("write", 0), ("resume", 0)]
    assert await bench.later(stop(signal.SIGSTOP, EVENT_STOP), stop(signal.SIGBUS)) == [("resume", 0), ("detach", 0)]
    assert bench.stored == ACCESS


async def test_what_the_kernel_touches_for_a_system_call_is_left_to_it(bench: Bench) -> None:
    bench.kernel.before[X86_64.called] = 1
    assert bench.trap(EVENT) == [*DONE[:2], ("detach", 0)]
    assert bench.stored == []


async def test_a_failure_lets_sigbus_through(bench: Bench) -> None:
    bench.failure = OSError(errno.ENXIO, "nothing is there")
    assert bench.trap(EVENT) == [*DONE[:2], ("resume", 0)]
    assert bench.trap(None, None) == [], "its next READ is refused, and that is all"
    bench.kernel.calls.clear()
    assert await bench.later(stop(signal.SIGBUS)) == [("detach", signal.SIGBUS)]
    assert bench.why[0].endswith(": nothing answers there: nothing is there")
    bench.failure = None
    assert bench.trap(EVENT) == DONE


async def test_a_signal_comes_before_a_failure(bench: Bench) -> None:
    bench.failure = OSError(errno.ENXIO, "nothing is there")
    assert bench.trap(stop(signal.SIGALRM)) == [*DONE[:2], ("detach", signal.SIGALRM)]


async def test_a_bug_of_the_device_is_told_and_ends_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.failure = ZeroDivisionError("a bug")
    with caplog.at_level(logging.ERROR):
        assert bench.trap(EVENT) == [*DONE[:2], ("resume", 0)]
    assert "ZeroDivisionError" in caplog.text
    assert await bench.later(stop(signal.SIGBUS)) == [("detach", signal.SIGBUS)]


@pytest.mark.parametrize("where", ["interrupt", "write", "detach"])
async def test_a_thread_that_is_killed_meanwhile(bench: Bench, where: str) -> None:
    bench.kernel.goes_at = where
    bench.trap(*([None, None] if where == "interrupt" else [EVENT]))
    assert bench.stored == ([] if where == "interrupt" else ACCESS)
    bench.kernel.goes_at = ""
    assert await bench.later(None, ThreadEnded) == []
    bench.stored.clear()
    assert bench.trap(EVENT) == DONE, "its number is another's"
    assert bench.stored == ACCESS


async def test_a_number_that_is_anothers_before_its_end_was_heard_of(bench: Bench) -> None:
    bench.kernel.goes_at = "detach"
    bench.trap(EVENT)
    bench.kernel.goes_at = ""
    assert bench.trap(ThreadEnded, EVENT) == DONE


async def test_code_that_is_not_in_memory_is_brought_in_by_the_thread(bench: Bench) -> None:
    """It is let go as it is, some times; then it is not to be had."""
    bench.kernel.before[X86_64.pointer] = 0x1000
    for _ in range(tracer.PATIENCE):
        assert bench.trap(EVENT) == [*DONE[:2], ("detach", 0)]
    assert bench.trap(EVENT) == [*DONE[:2], ("resume", 0)]
    assert "not in memory" in bench.why[0]
    assert bench.stored == []
