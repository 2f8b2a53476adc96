"""What x86 instructions of the general registers do with their operand in memory. Each function
reads the rest of a `Form`.

A locked instruction is a load and a store like any other: nobody else comes in between. Ref: Intel
SDM volume 2.
"""

from collections.abc import Callable
from typing import Final

from . import x86_flags as flags
from .instruction import Address, Bus, Instruction, Kind, Run, Vectors, Words
from .x86_form import RAX, RBX, RCX, RDX, U64, Form, UnknownInstruction
from .x86_registers import Read, Write, accumulator, reader, writer

_KEPT: Final = ~flags.ALL
Reader = Callable[[Form], Instruction]


def finished(form: Form, kind: Kind, size: int, address: Address, act: Run) -> Instruction:
    """All of `form` has been read. `act` does all but move the instruction pointer."""
    length, pointer, most = form.at, form.layout.pointer, (1 << form.layout.bits) - 1

    def run(words: Words, bus: Bus, vectors: Vectors) -> None:
        act(words, bus, vectors)
        words[pointer] = words[pointer] + length & most

    return Instruction(length, kind, size, address, run)


def load(form: Form, size: int, address: Address, put: Write) -> Instruction:
    """A value goes from memory to `put`."""

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        put(words, bus.load(address(words), size))

    return finished(form, Kind.LOAD, size, address, act)


def store(form: Form, size: int, address: Address, get: Read) -> Instruction:
    """A value goes from `get` to memory."""

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        bus.store(address(words), size, get(words))

    return finished(form, Kind.STORE, size, address, act)


def _constant(value: int, size: int) -> Read:
    value &= (1 << 8 * size) - 1
    return lambda words: value


def _size(form: Form) -> int:
    """The operand's size, for opcodes that come in pairs: the even one is for bytes."""
    return form.operand_size if form.opcode & 1 else 1


# --- moves ---


def mov_store(form: Form) -> Instruction:
    """88, 89."""
    form.modrm()
    size = _size(form)
    return store(form, size, form.address(), reader(form, size))


def mov_load(form: Form) -> Instruction:
    """8A, 8B."""
    form.modrm()
    size = _size(form)
    return load(form, size, form.address(), writer(form, size))


def mov_immediate(form: Form) -> Instruction:
    """C6, C7."""
    form.modrm()
    if form.reg:
        raise UnknownInstruction
    size = _size(form)
    address = form.address(immediate=min(size, 4))
    return store(form, size, address, _constant(form.number(min(size, 4)), size))


def mov_direct(form: Form) -> Instruction:
    """A0 to A3: the accumulator, and an address of full length."""
    size = _size(form)
    address = form.direct()
    get, put = accumulator(form, size)
    return store(form, size, address, get) if form.opcode & 2 else load(form, size, address, put)


def movzx(form: Form) -> Instruction:
    """0F B6, 0F B7."""
    form.modrm()
    return load(form, 1 + (form.opcode & 1), form.address(), writer(form, form.operand_size))


def movsx(form: Form) -> Instruction:
    """0F BE, 0F BF."""
    form.modrm()
    return _sign_extended(form, 1 + (form.opcode & 1))


def movsxd(form: Form) -> Instruction:
    """63 in 64-bit mode."""
    if form.layout.bits == 32:
        raise UnknownInstruction
    form.modrm()
    return _sign_extended(form, min(form.operand_size, 4))


def _sign_extended(form: Form, size: int) -> Instruction:
    put = writer(form, form.operand_size)
    sign, most = 1 << 8 * size - 1, (1 << 8 * form.operand_size) - 1
    return load(form, size, form.address(), lambda words, value: put(words, (value ^ sign) - sign & most))


def movnti(form: Form) -> Instruction:
    """0F C3, and 0F38 F9, movdiri."""
    form.modrm()
    if form.prefix:
        raise UnknownInstruction
    size = form.operand_size
    return store(form, size, form.address(), reader(form, size))


def movbe(form: Form) -> Instruction:
    """0F38 F0, F1."""
    if form.repeat:
        raise UnknownInstruction  # crc32
    form.modrm()
    size = form.operand_size
    address = form.address()
    if form.opcode & 1:
        get = reader(form, size)
        return store(form, size, address, lambda words: _swapped(get(words), size))
    put = writer(form, size)
    return load(form, size, address, lambda words, value: put(words, _swapped(value, size)))


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


# --- arithmetic ---


def _modify(form: Form, size: int, address: Address, operation: flags.Operation, right: Read) -> Instruction:
    """Memory becomes `operation` of itself and `right`."""
    place = form.layout.flags

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        at, before = address(words), words[place]
        result, after = operation(bus.load(at, size), right(words), size, before)
        bus.store(at, size, result)
        words[place] = before & _KEPT | after

    return finished(form, Kind.MODIFY, size, address, act)


def _test(
    form: Form, size: int, address: Address, operation: flags.Operation, other: Read, *, swapped: bool = False
) -> Instruction:
    """Of `operation` of memory and `other` (`swapped`: of `other` and memory), only the flags are
    kept.
    """
    place = form.layout.flags

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        before, value = words[place], bus.load(address(words), size)
        left, right = (other(words), value) if swapped else (value, other(words))
        words[place] = before & _KEPT | operation(left, right, size, before)[1]

    return finished(form, Kind.LOAD, size, address, act)


def arithmetic(form: Form) -> Instruction:
    """00 to 3B: memory and a register. The result goes to one of the two."""
    operation = flags.GROUP_1[form.opcode >> 3]
    compares = form.opcode >> 3 == flags.COMPARE
    form.modrm()
    size = _size(form)
    address, get = form.address(), reader(form, size)
    if not form.opcode & 2:
        return (_test if compares else _modify)(form, size, address, operation, get)
    if compares:
        return _test(form, size, address, operation, get, swapped=True)
    put, place = writer(form, size), form.layout.flags

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        before = words[place]
        result, after = operation(get(words), bus.load(address(words), size), size, before)
        put(words, result)
        words[place] = before & _KEPT | after

    return finished(form, Kind.LOAD, size, address, act)


def group_1(form: Form) -> Instruction:
    """80, 81, 83: memory and an immediate."""
    form.modrm()
    size = _size(form)
    width = 1 if form.opcode != 0x81 else min(size, 4)
    address = form.address(immediate=width)
    right = _constant(form.number(width), size)
    return (_test if form.reg == flags.COMPARE else _modify)(form, size, address, flags.GROUP_1[form.reg], right)


def test_register(form: Form) -> Instruction:
    """84, 85."""
    form.modrm()
    size = _size(form)
    return _test(form, size, form.address(), flags.conjoin, reader(form, size))


def group_3(form: Form) -> Instruction:
    """F6, F7: test, not, neg. Multiplication and division are not known."""
    form.modrm()
    size = _size(form)
    if form.reg in (0, 1):
        width = min(size, 4)
        address = form.address(immediate=width)
        return _test(form, size, address, flags.conjoin, _constant(form.number(width), size))
    if form.reg not in (2, 3):
        raise UnknownInstruction
    return _modify(form, size, form.address(), flags.invert if form.reg == 2 else flags.negate, _constant(0, size))


def group_4(form: Form) -> Instruction:
    """FE, FF: inc, dec. Calls, jumps and push are not known."""
    form.modrm()
    if form.reg not in (0, 1):
        raise UnknownInstruction
    size = _size(form)
    return _modify(form, size, form.address(), flags.decrement if form.reg else flags.increment, _constant(0, size))


# --- bits ---


def bit_register(form: Form) -> Instruction:
    """0F A3, AB, B3, BB: a register has the number of the bit, which may lie anywhere."""
    operation = form.opcode >> 3 & 3
    form.modrm()
    size, segment = form.operand_size, form.segment
    form.segment = None  # it is added last, after the distance to the bit
    operand, get = form.address(), reader(form, size)
    sign, shift = 1 << 8 * size - 1, {2: 4, 4: 5, 8: 6}[size]
    most = (1 << form.address_bits) - 1

    def address(words: Words) -> int:
        place = operand(words) + (((get(words) ^ sign) - sign) >> shift) * size & most
        return place if segment is None else place + words[segment] & U64

    return _bit(form, size, address, operation, get)


def bit_immediate(form: Form) -> Instruction:
    """0F BA."""
    form.modrm()
    if form.reg < 4:
        raise UnknownInstruction
    size = form.operand_size
    address = form.address(immediate=1)
    return _bit(form, size, address, form.reg & 3, _constant(form.number(1), size))


def _bit(form: Form, size: int, address: Address, operation: int, which: Read) -> Instruction:
    """`operation`: 0 only tells the bit, 1 sets it, 2 clears it, 3 turns it."""
    place, within = form.layout.flags, 8 * size - 1

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        at, bit = address(words), 1 << (which(words) & within)
        before = bus.load(at, size)
        if operation:
            bus.store(at, size, (before, before | bit, before & ~bit, before ^ bit)[operation])
        words[place] = words[place] & ~flags.CF | (flags.CF if before & bit else 0)

    return finished(form, Kind.MODIFY if operation else Kind.LOAD, size, address, act)


# --- exchanges ---


def xchg(form: Form) -> Instruction:
    """86, 87."""
    form.modrm()
    size = _size(form)
    address, get, put = form.address(), reader(form, size), writer(form, size)

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        at = address(words)
        before = bus.load(at, size)
        bus.store(at, size, get(words))
        put(words, before)

    return finished(form, Kind.MODIFY, size, address, act)


def xadd(form: Form) -> Instruction:
    """0F C0, C1."""
    form.modrm()
    size = _size(form)
    address, get, put, place = form.address(), reader(form, size), writer(form, size), form.layout.flags

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        at = address(words)
        before = bus.load(at, size)
        result, after = flags.add(before, get(words), size)
        bus.store(at, size, result)
        put(words, before)
        words[place] = words[place] & _KEPT | after

    return finished(form, Kind.MODIFY, size, address, act)


def cmpxchg(form: Form) -> Instruction:
    """0F B0, B1. Memory is stored to in either case, as the processor does it on its bus."""
    form.modrm()
    size = _size(form)
    address, get, place = form.address(), reader(form, size), form.layout.flags
    expected, keep = accumulator(form, size)

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        at = address(words)
        before = bus.load(at, size)
        _, after = flags.subtract(expected(words), before, size)
        bus.store(at, size, get(words) if after & flags.ZF else before)
        if not after & flags.ZF:
            keep(words, before)
        words[place] = words[place] & _KEPT | after

    return finished(form, Kind.MODIFY, size, address, act)


def cmpxchg_pair(form: Form) -> Instruction:
    """0F C7 /1: cmpxchg8b, cmpxchg16b."""
    form.modrm()
    if form.reg != 1:
        raise UnknownInstruction
    half = 8 if form.wide else 4
    address, place, most = form.address(), form.layout.flags, (1 << 8 * half) - 1
    low, high, new_low, new_high = (form.slot(number) for number in (RAX, RDX, RBX, RCX))

    def pair(words: Words, first: int, second: int) -> int:
        return words[first] & most | (words[second] & most) << 8 * half

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        at = address(words)
        before = bus.load(at, 2 * half)
        equal = before == pair(words, low, high)
        bus.store(at, 2 * half, pair(words, new_low, new_high) if equal else before)
        if not equal:
            words[low], words[high] = before & most, before >> 8 * half
        words[place] = words[place] & ~flags.ZF | (flags.ZF if equal else 0)

    return finished(form, Kind.MODIFY, 2 * half, address, act)
