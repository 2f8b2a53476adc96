"""Instructions that the decoder does not know are carried out by trial.

The stepper gets the thread's registers and its code. Where the device's page is, it has a page of
our own. The instruction is run there several times:

1. with the processor's debug registers on some bytes of the page: they tell what it reads and what
   it writes;
2. with different contents of the page: whether what it writes depends on what was there.

Then the device is asked for the bytes that are read, the instruction is run once more with those,
and what it writes then is stored to the device.

That takes a millisecond, where a decoded instruction takes 25 µs, and 32-bit programs do not have
it. So what compilers make of plain C is decoded: moves, arithmetic and tests, exchanges, strings.
"""

import signal
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from .bus import PAGE
from .decoder import X86_64
from .device import AccessRefused
from .stepper import WATCHES, Fault, Machine, Stepper, StepperError
from .trace import Hand
from .x86_form import CutInstruction, Form, UnknownInstruction

_PATTERNS: Final = (0x00, 0xFF, 0xA5)
_WIDEST: Final = 64  # bytes of one operand, but for a few instructions that save whole states
_GRAIN: Final = 8  # bytes that are watched at once
_MOST_PAGES: Final = 16
# Map and opcode of instructions that flush a line (two of a group). The processor looks at the line
# for that.
_CACHE_CONTROL: Final = (1, 0xAE)
_FLUSHES: Final = (6, 7)
# How instructions begin that may have a mask, which leaves out parts of what the processor looks
# at.
_PREFIXES: Final = bytes((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67))
_EVEX: Final = b"\x62"
_VEX: Final = b"\xc4"
_MASKED_MAP: Final = 2
_MASKED: Final = (0x2C, 0x2D, 0x2E, 0x2F, 0x8C, 0x8E)
_XSAVE: Final = 13  # leaf of CPUID


class Surroundings(Protocol):
    """What a thread has mapped (`bus.Everywhere`). AccessRefused may come of each call."""

    def load(self, address: int, size: int) -> int: ...

    def store(self, address: int, size: int, value: int) -> None: ...

    def place(self, address: int) -> int | None:
        """None: it is the program's own memory, not the device's."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


Memory = dict[int, bytes]
"""By the address of the page."""


class Trials:
    """The stepper, made when it is wanted. Belongs to the thread of its hand."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._stepper: Stepper | None = None
        self._places: dict[int, int] = {}

    def close(self) -> None:
        """It is not wanted any more."""
        stepper, self._stepper = self._stepper, None
        if stepper is not None:
            stepper.close()

    def where(self, component: int) -> int:
        """Where XSAVE puts a component (bytes from the start). AccessRefused."""
        if component not in self._places:
            try:
                self._places[component] = self._made().features(_XSAVE, component)[1]
            except StepperError as why:
                self.close()
                raise AccessRefused(str(why)) from None
        return self._places[component]

    def carry_out(self, tid: int, code: bytes, bus: Surroundings) -> None:
        """Carry out the instruction `code` of thread `tid`, whose general registers are in the
        hand. They are changed there; the other registers are given to the thread. AccessRefused.
        """
        hand = self._hand
        if hand.layout is not X86_64:
            raise AccessRefused("it is an instruction of a 32-bit program that the decoder does not know")
        before = Machine(tuple(hand.words[index] for index in range(27)), bytes(hand.read_xstate(tid)))
        try:
            trial = Trial(self._made(), before, code, bus)
            try:
                after = trial.carry_out()
            finally:
                trial.end()
        except StepperError as why:
            self.close()
            raise AccessRefused(f"the processor cannot be asked: {why}") from None
        if after.xstate != before.xstate:
            hand.write_xstate(tid, after.xstate)
        for index, value in enumerate(after.words):
            hand.words[index] = value

    def _made(self) -> Stepper:
        if self._stepper is None:
            self._stepper = Stepper()
        return self._stepper


class _Outcome:
    """What one run leaves."""

    def __init__(self, machine: Machine, fault: Fault | None, device: Memory, own: Memory) -> None:
        self.fault, self.device, self.own = fault, device, own
        self.machine = machine

    def is_like(self, other: "_Outcome") -> bool:
        """Whether both are equal, but for the device's pages."""
        return (self.machine, self.fault, self.own) == (other.machine, other.fault, other.own)

    def byte(self, address: int) -> int:
        return self.device[address & -PAGE][address % PAGE]


class Trial:
    """One instruction."""

    def __init__(self, stepper: Stepper, before: Machine, code: bytes, bus: Surroundings) -> None:
        self._stepper = stepper
        self._before = before
        self._code = code
        self._bus = bus
        self._device: dict[int, int] = {}  # pages, and which byte of each was touched first
        self._own: Memory = {}
        self._code_pages: set[int] = set()
        pointer = before.words[X86_64.pointer]
        for at in range(0, len(code), PAGE - pointer % PAGE):
            self._lay_code(pointer + at, code[at : at + PAGE - (pointer + at) % PAGE])

    def end(self) -> None:
        """Remove all that is in the stepper."""
        self._stepper.clear()

    def carry_out(self) -> Machine:
        """What the registers are afterwards. AccessRefused, StepperError."""
        # Find the pages, with a content at which the instruction does not fault.
        faults = []
        for pattern in _PATTERNS:
            fault = self._run({}, pattern).fault
            if fault is None:
                break
            faults.append(fault)
        else:
            raise AccessRefused(f"the processor answers it with signal {faults[0].signal}")
        if not self._device and not self._is_masked():
            raise AccessRefused("it does not touch the device, as the processor sees it")
        touched, written = self._touched(writes=False), self._touched(writes=True)
        loads, stores = touched - written, written
        if self._is_cache_control() and not written:
            loads = set()
        elif self._is_masked():
            loads = {address for address in loads if self._matters(address)}
        if written:
            outcomes = [self._run(self._filled(written, pattern), 0) for pattern in _PATTERNS]
            fixed = {each for each in written if len({outcome.byte(each) for outcome in outcomes}) == 1}
            left = {
                each
                for each in written - fixed
                if all(outcome.byte(each) == pattern for pattern, outcome in zip(_PATTERNS, outcomes, strict=True))
            }
            if fixed | left == written and all(outcome.is_like(outcomes[0]) for outcome in outcomes):
                stores = fixed  # some bytes may be left out by a mask
            else:
                loads |= written
        return self._finish(_ranges(loads), stores)

    def _finish(self, loads: list[range], stored: set[int]) -> Machine:
        pages = {page: bytearray(PAGE) for page in self._device}
        for addresses in loads:
            for piece in _pieces(addresses):
                value = self._bus.load(piece.start, len(piece)).to_bytes(len(piece), "little")
                for address, byte in zip(piece, value, strict=True):
                    pages[address & -PAGE][address % PAGE] = byte
        laid = {page: bytes(data) for page, data in pages.items()}
        outcome = self._run(laid, 0)
        if outcome.fault is not None:
            raise AccessRefused(f"the processor answers it with signal {outcome.fault.signal}")
        for page, data in outcome.own.items():
            for part in _ranges(page + at for at in range(PAGE) if data[at] != self._own[page][at]):
                self._bus.write(part.start, data[part.start - page : part.stop - page])
        for addresses in _ranges(stored):
            for piece in _pieces(addresses):
                value = bytes(outcome.byte(address) for address in piece)
                self._bus.store(piece.start, len(piece), int.from_bytes(value, "little"))
        return outcome.machine

    # --- what it touches ---

    def _touched(self, *, writes: bool) -> set[int]:
        """The bytes of the device's pages that it reads or writes, or those that it writes."""
        found: set[int] = set()
        for page, first in self._device.items():
            start = first & -_GRAIN
            ahead = range(start, page + PAGE, _GRAIN)
            behind = range(start - _GRAIN, page - 1, -_GRAIN)
            grains = [grain for way in (ahead, behind) for grain in self._hits_until_none(way, writes)]
            for grain in grains:
                for half in (grain, grain + WATCHES):
                    found |= self._hits(range(half, half + WATCHES), 1, writes)
        return found

    def _hits_until_none(self, way: range, writes: bool) -> Iterator[int]:
        while way:
            hits = self._hits(way[: _WIDEST // _GRAIN], _GRAIN, writes)
            if not hits:
                return
            yield from sorted(hits)
            way = way[_WIDEST // _GRAIN :]

    def _hits(self, places: range, size: int, writes: bool) -> set[int]:
        found: set[int] = set()
        for at in range(0, len(places), WATCHES):
            some = places[at : at + WATCHES]
            hits = self._stepper.touches(self._before, some, size, writes=writes)
            found |= {place for place, is_hit in zip(some, hits, strict=True) if is_hit}
        return found

    def _matters(self, address: int) -> bool:
        """Whether anything depends on the byte at `address`."""
        one, other = (self._run(self._filled({address}, pattern), 0) for pattern in _PATTERNS[:2])
        return not one.is_like(other)

    def _filled(self, addresses: set[int], pattern: int) -> Memory:
        pages = {page: bytearray(PAGE) for page in self._device}
        for address in addresses:
            pages[address & -PAGE][address % PAGE] = pattern
        return {page: bytes(data) for page, data in pages.items()}

    def _is_cache_control(self) -> bool:
        try:
            form = Form(self._code, X86_64)
            form.modrm()
        except (UnknownInstruction, CutInstruction):
            return False
        return (form.map, form.opcode) == _CACHE_CONTROL and form.reg in _FLUSHES

    def _is_masked(self) -> bool:
        code = self._code.lstrip(_PREFIXES)
        return code[:1] == _EVEX or (code[:1] == _VEX and code[1] & 31 == _MASKED_MAP and code[3] in _MASKED)

    # --- runs ---

    def _run(self, device: Memory, fill: int) -> _Outcome:
        """Run it with these contents of the device's pages; other pages are full of `fill`."""
        stepper = self._stepper
        for page, data in self._own.items():
            stepper.lay(page, data)
        for page in self._device:
            stepper.lay(page, device.get(page, bytes([fill]) * PAGE))
        machine, fault = stepper.step(self._before)
        while fault is not None and fault.signal == signal.SIGSEGV and self._find(fault.address, fill):
            machine, fault = stepper.step(self._before)
        return _Outcome(
            machine,
            fault,
            {page: stepper.look(page, PAGE) for page in self._device},
            {page: stepper.look(page, PAGE) for page in self._own},
        )

    def _find(self, address: int, fill: int) -> bool:
        """Lay the page at `address`. False: it was laid already, or cannot be laid."""
        page = address & -PAGE
        if page in self._own or page in self._device or page in self._code_pages or not 0 < page < 1 << 47:
            return False
        if len(self._own) + len(self._device) >= _MOST_PAGES:
            raise AccessRefused("it touches too much")
        if self._bus.place(address) is not None:
            self._device[page] = address
            self._stepper.lay(page, bytes([fill]) * PAGE)
        else:
            self._own[page] = self._bus.read(page, PAGE)
            self._stepper.lay(page, self._own[page])
        return True

    def _lay_code(self, address: int, code: bytes) -> None:
        page = address & -PAGE
        try:
            data = self._bus.read(page, PAGE)  # constants may be beside it
        except AccessRefused:
            data = bytes(PAGE)
        self._code_pages.add(page)
        self._stepper.lay(page, data, code=True)
        self._stepper.lay(address, code, code=True)


def _ranges(addresses: Iterable[int]) -> list[range]:
    """Addresses that follow each other, together."""
    found: list[range] = []
    for address in sorted(addresses):
        if found and found[-1].stop == address:
            found[-1] = range(found[-1].start, address + 1)
        else:
            found.append(range(address, address + 1))
    return found


def _pieces(addresses: range) -> Iterator[range]:
    """All at once if an operand can be so long, else in aligned parts."""
    if len(addresses) <= _WIDEST and len(addresses).bit_count() == 1:
        yield addresses
        return
    at = addresses.start
    while at < addresses.stop:
        size = 8
        while at % size or at + size > addresses.stop:
            size //= 2
        yield range(at, at + size)
        at += size
