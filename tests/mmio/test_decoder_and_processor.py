"""What the decoder makes of an instruction is what the processor makes of it: registers, flags,
vector registers, memory.

The stepper is the processor: it runs the very bytes.
"""

import signal
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cuse_glue.mmio.decoder import X86_64, CutInstruction, decode
from cuse_glue.mmio.instruction import Kind
from cuse_glue.mmio.stepper import PAGE, Fault, Stepper
from cuse_glue.mmio.x86_flags import ALL
from tests.examples import examples

from . import forms
from .assembler import assemble
from .native import DIRECTION, NAMES, Both

CODE = 0x2_0000_0000
EDGES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]
words = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1))
flags = st.integers(0, (1 << 12) - 1).map(lambda bits: bits & ALL | 0x202)
seeds = st.integers(0, (1 << 64) - 1)


@cache
def encoded(wide: bool) -> list[tuple[forms.Case, bytes]]:
    found = forms.cases(wide=wide)
    return list(zip(found, assemble([case.text for case in found]), strict=True))


def spread(seed: int, size: int) -> bytes:
    """As many bytes, of which no eight are like their neighbours."""
    step = 0x9E37_79B9_7F4A_7C15
    return b"".join((seed + number * step & (1 << 64) - 1).to_bytes(8, "little") for number in range(size // 8))


def memory_of(seed: int, value: int) -> bytes:
    """Pages where the operand is `value`, which arithmetic is most sensitive to."""
    data = bytearray(spread(seed, forms.PAGES * PAGE))
    at = forms.TARGET - forms.DATA
    data[at : at + 8] = value.to_bytes(8, "little")
    return bytes(data)


def vectors_of(both: Both, seed: int) -> tuple[int, ...]:
    size = 64 if both.wide else 32
    data = spread(seed ^ 0x5555, 32 * size)
    return tuple(
        int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) if both.wide else 16 * size, size)
    )


def check(both: Both, case: forms.Case, code: bytes, registers: dict[str, int], memory: bytes, seed: int) -> None:
    instruction = decode(code + b"\x90" * (15 - len(code)), X86_64)
    assert instruction is not None, f"{case.text} ({code.hex()}) is not known"
    assert instruction.length == len(code), case.text
    start = forms.TARGET - forms.FROM_HERE - len(code) if case.distant else CODE
    machine = both.machine({**registers, **case.registers, "rip": start}, vectors_of(both, seed))
    native = both.native(code, machine, forms.DATA, memory)
    assert not isinstance(native, Fault), f"{case.text}: the processor says {native}"
    assert both.decoded(instruction, machine, forms.DATA, memory) == native, f"{case.text} ({code.hex()})"


def registers_of(case: forms.Case, seed: int) -> dict[str, int]:
    """Every register has something in it, now and then what arithmetic is most sensitive to."""
    found = {}
    for number, name in enumerate(NAMES):
        word = int.from_bytes(spread(seed + number, 8), "little") * 0x2545_F491_4F6C_DD1D & (1 << 64) - 1
        found[name] = EDGES[word >> 8 & 0xFF] if word >> 8 & 0xFF < len(EDGES) else word
        if case.of_bits:  # the operand is as far away as it says, before or behind
            found[name] = found[name] % 4096 - 2048 & (1 << 64) - 1
    return found | {"flags": seed >> 3 & (ALL | DIRECTION) | 0x202}


@pytest.mark.parametrize("round_", range(4))
def test_each_form_is_as_the_processor_does_it(both: Both, round_: int) -> None:
    for number, (case, code) in enumerate(encoded(both.wide)):
        seed = (number * 4 + round_) * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1
        check(both, case, code, registers_of(case, seed), memory_of(seed, EDGES[(seed >> 40) % len(EDGES)]), seed)


ARITHMETIC = [
    "add {m}, {r}", "adc {m}, {r}", "sub {m}, {r}", "sbb {m}, {r}", "and {m}, {r}", "or {m}, {r}", "xor {m}, {r}", "cmp {m}, {r}",
    "add {r}, {m}", "adc {r}, {m}", "sub {r}, {m}", "sbb {r}, {m}", "cmp {r}, {m}", "test {m}, {r}", "neg {m}", "inc {m}", "dec {m}",
    "xadd {m}, {r}", "cmpxchg {m}, {r}",
]  # fmt: skip


@cache
def arithmetic() -> list[tuple[forms.Case, bytes]]:
    texts = [
        text.format(m=f"{forms.WIDTHS[size]} ptr [rbx]", r=forms.REGISTERS[size][0])
        for text in ARITHMETIC
        for size in forms.GENERAL
    ]
    found = [forms.Case(text, {"rbx": forms.TARGET}) for text in texts]
    return list(zip(found, assemble(texts), strict=True))


@examples(150)
@given(data=st.data(), left=words, right=words, expected=words, before=flags)
def test_flags_are_as_the_processor_sets_them(
    both: Both, data: Any, left: int, right: int, expected: int, before: int
) -> None:
    case, code = data.draw(st.sampled_from(arithmetic()))
    registers = {
        "rcx": right,
        "rdx": right,
        "rax": data.draw(st.sampled_from([expected, left, right])),
        "flags": before,
    }
    check(both, case, code, registers, memory_of(left, left), left)


PREFIXES = st.sampled_from(
    [b"", b"\x66", b"\x67", b"\xf2", b"\xf3", b"\xf0", b"\x2e", b"\x64", b"\x65", b"\x66\xf3", b"\xf2\x67"]
)
BYTES = st.integers(0, 255).map(lambda byte: bytes([byte]))
OPCODES = st.one_of(
    BYTES,
    BYTES.map(lambda byte: b"\x0f" + byte),
    BYTES.map(lambda byte: b"\xc5" + byte),
    st.tuples(st.sampled_from([b"\xc4\xe1", b"\xc4\x41", b"\xc4\x82"]), BYTES).map(b"".join),
    st.tuples(st.sampled_from([b"\x62\xf1\x7c\x48", b"\x62\x61\xfe\x28", b"\x62\xa1\x7d\x08"]), BYTES).map(b"".join),
    st.sampled_from([b"\x0f\x38\xf0", b"\x0f\x38\xf1", b"\x0f\x38\xf9", b"\x0f\x38\x2a"]),
)


@settings(examples(600), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    prefixes=PREFIXES,
    rex=st.one_of(st.just(b""), st.integers(0x40, 0x4F).map(lambda byte: bytes([byte]))),
    opcode=OPCODES,
    modrm=st.integers(0, 0xBF).map(lambda byte: bytes([byte])),
    rest=st.binary(min_size=9, max_size=9),
    seed=seeds,
)
def test_what_is_read_into_any_bytes_is_what_the_processor_does(
    both: Both, stepper: Stepper, prefixes: bytes, rex: bytes, opcode: bytes, modrm: bytes, rest: bytes, seed: int
) -> None:
    code = (prefixes + rex + opcode + modrm + rest)[:15]
    instruction = decode(code, X86_64)
    assume(instruction is not None)
    assert instruction is not None
    assume(instruction.kind is not Kind.STRING)
    places = {
        name: 0x10_0000_0000 + word % (1 << 40)
        for name, word in registers_of(forms.Case("", {}), seed).items()
        if name != "flags"
    }
    machine = both.machine({**places, "fs_base": 1 << 33, "gs_base": 1 << 34, "rip": CODE}, vectors_of(both, seed))
    start = (instruction.address(list(machine.words)) & -PAGE) - PAGE
    assume(0 < start < 1 << 46 and not CODE - 4 * PAGE <= start <= CODE + PAGE)
    memory = spread(seed, 3 * PAGE)
    stepper.clear()
    native = both.native(code, machine, start, memory)
    if isinstance(native, Fault):
        elsewhere = native.signal == signal.SIGSEGV and native.address
        assert not elsewhere, f"{code.hex()}: the processor touches {native.address:#x}, where it was not to"
    assume(not isinstance(native, Fault))  # the processor does not know it, or wants it aligned
    assert both.decoded(instruction, machine, start, memory) == native, code.hex()


LOAD_THEN_STORE = (
    *(opcode for opcode in range(0x40) if opcode & 7 < 4),
    *(0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0xF6, 0xF7, 0xFE, 0xFF),
)


@st.composite
def modifying(draw: st.DrawFn) -> bytes:
    """Arithmetic, TEST, NOT, NEG, INC, DEC or XCHG with its operand in memory: of every size, with
    every register, by every way to name an address.
    """
    opcode = draw(st.sampled_from(LOAD_THEN_STORE))
    prefixes = draw(st.sampled_from([b"", b"", b"\x66", b"\x67", b"\x64", b"\x66\x65"]))
    rex = draw(st.one_of(st.just(b""), st.integers(0x40, 0x4F).map(lambda byte: bytes([byte]))))
    reg = draw(st.integers(0, {0xF6: 3, 0xF7: 3, 0xFE: 1, 0xFF: 1}.get(opcode, 7)))
    from_here = draw(st.sampled_from([False, False, False, True]))
    mode, rm = (0, 5) if from_here else (draw(st.integers(0, 2)), draw(st.integers(0, 7)))
    rest = bytearray(draw(st.binary(min_size=9, max_size=9)))
    rest[2] |= from_here  # far from the code
    return prefixes + rex + bytes([opcode, mode << 6 | reg << 3 | rm]) + bytes(rest)


@settings(examples(600), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(code=modifying(), left=words, right=words, before=flags, seed=seeds)
def test_arithmetic_in_any_encoding_is_what_the_processor_does(
    both: Both, stepper: Stepper, code: bytes, left: int, right: int, before: int, seed: int
) -> None:
    instruction = decode(code[:15], X86_64)
    assert instruction is not None, code.hex()
    code = code[: instruction.length]
    registers = {
        name: 0x10_0000_0000 + word % (1 << 40)
        for name, word in registers_of(forms.Case("", {}), seed).items()
        if name != "flags"
    }
    other = NAMES[seed % len(NAMES)]  # now and then the one that the instruction names
    segments = {"fs_base": 1 << 33, "gs_base": 1 << 34}
    machine = both.machine(
        {**registers, other: right, **segments, "flags": before, "rip": CODE}, vectors_of(both, seed)
    )
    address = instruction.address(list(machine.words))
    start = (address & -PAGE) - PAGE
    assume(0 < start < 1 << 46 and not CODE - 4 * PAGE <= start <= CODE + PAGE)
    memory = bytearray(spread(seed, 3 * PAGE))
    memory[address - start : address - start + 8] = left.to_bytes(8, "little")
    stepper.clear()
    native = both.native(code, machine, start, bytes(memory))
    assert not isinstance(native, Fault), f"{code.hex()}: the processor says {native}"
    assert both.decoded(instruction, machine, start, bytes(memory)) == native, code.hex()


def test_bytes_that_end_too_early_are_said_to() -> None:
    for _, code in encoded(False):
        for length in range(len(code)):
            with pytest.raises(CutInstruction):
                decode(code[:length], X86_64)
