"""Every instruction that the decoder knows, in every form, as text for the assembler, and what
registers make its operand lie at TARGET.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

DATA = 0x1234_0000  # the first of the pages that the operand may be in
PAGES = 4
TARGET = DATA + 0x1140  # its first byte
SOURCE = DATA + 0x2100  # of the other operand, where there are two
FROM_HERE = 0x2000  # bytes, where it is named by its distance
U64 = (1 << 64) - 1
JUNK = 0xDEAD_BEEF << 32


@dataclass(frozen=True)
class Mode:
    """One way to name an address."""

    text: str
    registers: dict[str, int] = field(default_factory=dict)
    distant: bool = False  # from the end of the instruction


MODES = (
    Mode("[rbx]", {"rbx": TARGET}),
    Mode("[rbx+0x40]", {"rbx": TARGET - 0x40}),
    Mode("[rbx-0x12345]", {"rbx": TARGET + 0x12345}),
    Mode("[rbx+rcx*4]", {"rbx": TARGET - 0x40, "rcx": 0x10}),
    Mode("[rcx*8+0x11000000]", {"rcx": (TARGET - 0x1100_0000) // 8}),
    Mode("[r12]", {"r12": TARGET}),
    Mode("[r13]", {"r13": TARGET}),
    Mode("[rsp+8]", {"rsp": TARGET - 8}),
    Mode("[rsp]", {"rsp": TARGET}),
    Mode("[rbp+r15*2-2]", {"rbp": TARGET - 0x1E, "r15": 0x10}),
    Mode("[r8+r9]", {"r8": TARGET + 16, "r9": U64 - 15}),
    Mode("[ebx]", {"rbx": TARGET | JUNK}),
    Mode("[ebx+ecx*2+8]", {"rbx": TARGET - 0x28 | JUNK, "rcx": 0x10 | JUNK}),
    Mode(f"[rip+{FROM_HERE}]", distant=True),
    Mode(f"ds:[{TARGET}]"),
    Mode("fs:[rbx]", {"rbx": 0x1000, "fs_base": TARGET - 0x1000}),
    Mode("gs:[rbx+rcx+0x10]", {"rbx": 0x1000, "rcx": 0x30, "gs_base": TARGET - 0x1040}),
)

WIDTHS = {1: "byte", 2: "word", 4: "dword", 8: "qword", 16: "xmmword", 32: "ymmword", 64: "zmmword"}
REGISTERS = {1: ("al", "sil", "r9b"), 2: ("dx", "r10w"), 4: ("ecx", "r11d"), 8: ("rdx", "r14")}
FIRST_BYTE_HIGH = ("ah", "ch", "dh", "bh")
ALU = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
GENERAL = (1, 2, 4, 8)


def _general() -> Iterator[str]:
    for size in GENERAL:
        m = f"{WIDTHS[size]} ptr {{m}}"
        immediate = {1: "0x85", 2: "0x8765", 4: "0x87654321", 8: "-0x12345678"}[size]
        for r in REGISTERS[size]:
            yield f"mov {m}, {r}"
            yield f"mov {r}, {m}"
            for name in ALU:
                yield f"{name} {m}, {r}"
                yield f"{name} {r}, {m}"
            yield f"test {m}, {r}"
            yield f"xchg {m}, {r}"
            yield f"lock xadd {m}, {r}"
            yield f"lock cmpxchg {m}, {r}"
            if size > 1:
                yield f"movbe {m}, {r}"
                yield f"movbe {r}, {m}"
            if size > 2:
                yield f"movnti {m}, {r}"
        yield f"mov {m}, {immediate}"
        yield f"test {m}, {immediate}"
        for name in ALU:
            yield f"{name} {m}, {immediate}"
            yield f"{name} {m}, -5"
        for name in ("inc", "dec", "not", "neg"):
            yield f"{name} {m}"
            yield f"lock {name} {m}"
        for name in ("add", "or", "and", "sub", "xor"):
            yield f"lock {name} {m}, {REGISTERS[size][0]}"
        if size > 1:
            for name in ("bt", "bts", "btr", "btc"):
                yield f"{name} {m}, {8 * size - 3}"
                yield f"{name} {m}, 250"
            yield f"lock bts {m}, 1"
        for wide in GENERAL:
            if size < wide and size < 4:
                yield f"movzx {REGISTERS[wide][-1]}, {m}"
                yield f"movsx {REGISTERS[wide][0]}, {m}"
    yield "movsxd rax, dword ptr {m}"
    yield "movsxd r15, dword ptr {m}"
    yield "lock cmpxchg8b qword ptr {m}"
    yield "cmpxchg16b xmmword ptr {m}"


def _bits() -> Iterator[str]:
    """A register says how far away the bit is, in bits."""
    for size in GENERAL[1:]:
        for r in REGISTERS[size]:
            for name in ("bt", "bts", "btr", "btc", "lock bts"):
                yield f"{name} {WIDTHS[size]} ptr {{m}}, {r}"


def _high_bytes() -> Iterator[str]:
    """Registers that a REX prefix would turn into others."""
    for r in FIRST_BYTE_HIGH:
        yield f"mov byte ptr {{m}}, {r}"
        yield f"mov {r}, byte ptr {{m}}"
        yield f"xor {r}, byte ptr {{m}}"
        yield f"sbb byte ptr {{m}}, {r}"
        yield f"xchg byte ptr {{m}}, {r}"
        yield f"lock xadd byte ptr {{m}}, {r}"


def _vectors() -> Iterator[str]:
    for name in ("movups", "movupd", "movaps", "movapd", "movdqa", "movdqu"):
        for v, letter, registers in (("", "x", (1, 9)), ("v", "x", (2, 10)), ("v", "y", (3, 11))):
            for number in registers:
                m = f"{letter}mmword ptr {{m}}"
                yield f"{v}{name} {m}, {letter}mm{number}"
                yield f"{v}{name} {letter}mm{number}, {m}"
    for name in ("movntps", "movntpd", "movntdq"):
        yield f"{name} xmmword ptr {{m}}, xmm4"
        yield f"v{name} ymmword ptr {{m}}, ymm12"
    yield "movntdqa xmm5, xmmword ptr {m}"
    yield "vmovntdqa ymm13, ymmword ptr {m}"
    yield "lddqu xmm6, xmmword ptr {m}"
    yield "vlddqu ymm14, ymmword ptr {m}"
    for v in ("", "v"):
        for name, width in (("movss", "dword"), ("movsd", "qword"), ("movd", "dword"), ("movq", "qword")):
            yield f"{v}{name} xmm7, {width} ptr {{m}}"
            yield f"{v}{name} {width} ptr {{m}}, xmm15"
        for name in ("movlps", "movhps", "movlpd", "movhpd"):
            yield f"{v}{name} qword ptr {{m}}, xmm8"
    for name in ("movlps", "movhps", "movlpd", "movhpd"):
        yield f"{name} xmm0, qword ptr {{m}}"
    yield "movd xmm3, qword ptr {m}"
    yield "movd qword ptr {m}, xmm3"


def _wide_vectors() -> Iterator[str]:
    for name in (
        "vmovdqu8",
        "vmovdqu16",
        "vmovdqu32",
        "vmovdqu64",
        "vmovdqa32",
        "vmovdqa64",
        "vmovups",
        "vmovupd",
        "vmovaps",
        "vmovapd",
    ):
        for size, register in ((16, "xmm17"), (32, "ymm18"), (64, "zmm3"), (64, "zmm30")):
            m = f"{WIDTHS[size]} ptr {{m}}"
            yield f"{name} {m}, {register}"
            yield f"{name} {register}, {m}"
    yield "vmovntdq zmmword ptr {m}, zmm25"
    yield "vmovntdqa zmm26, zmmword ptr {m}"
    yield "vmovntps zmmword ptr {m}, zmm9"
    for name, width in (("vmovss", "dword"), ("vmovsd", "qword"), ("vmovd", "dword"), ("vmovq", "qword")):
        yield f"{name} xmm21, {width} ptr {{m}}"
        yield f"{name} {width} ptr {{m}}, xmm22"
    yield "vmovhps qword ptr {m}, xmm23"
    yield "vmovlpd qword ptr {m}, xmm24"


@dataclass(frozen=True)
class Case:
    """One instruction."""

    text: str
    registers: dict[str, int]
    distant: bool = False

    @property
    def of_bits(self) -> bool:
        """A register says how far the operand is."""
        operation, _, last = self.text.rpartition(", ")
        return operation.removeprefix("lock ").startswith("bt") and not last.isdigit()


def _in_modes(lines: Iterator[str], each: tuple[Mode, ...]) -> Iterator[Case]:
    """Every line in one mode, all modes in turn."""
    for line, mode in zip(lines, cycle(each), strict=False):
        yield Case(line.replace("{m}", mode.text), mode.registers, mode.distant)


def _in_each_mode(lines: tuple[str, ...]) -> Iterator[Case]:
    for line in lines:
        for mode in MODES:
            yield Case(line.replace("{m}", mode.text), mode.registers, mode.distant)


def _strings() -> Iterator[Case]:
    for letter in "bwdq":
        for name in ("movs", "stos", "lods"):
            for repeat in ("", "rep "):
                for small in ("", "addr32 "):
                    high = JUNK if small else 0
                    count = 3 | high if repeat else 0x1234
                    yield Case(
                        f"{small}{repeat}{name}{letter}", {"rsi": SOURCE | high, "rdi": TARGET | high, "rcx": count}
                    )
    yield Case("fs movsb", {"rsi": 0x100, "rdi": TARGET, "fs_base": SOURCE - 0x100})
    yield Case("rep movsb", {"rsi": SOURCE, "rdi": TARGET, "rcx": 300})
    yield Case("repne stosw", {"rdi": TARGET, "rcx": 2})
    yield Case("rep movsd", {"rsi": SOURCE, "rdi": TARGET, "rcx": 0})


def _direct() -> Iterator[Case]:
    for r in ("al", "ax", "eax", "rax"):
        yield Case(f"movabs ds:[{TARGET}], {r}", {})
        yield Case(f"movabs {r}, ds:[{TARGET}]", {})
    yield Case(f"movabs fs:[{TARGET - 0x1000}], eax", {"fs_base": 0x1000})
    yield Case(f"addr32 mov eax, ds:[{TARGET}]", {})


EVERYWHERE = (
    "mov dword ptr {m}, eax", "mov r10, qword ptr {m}", "mov byte ptr {m}, 7", "mov qword ptr {m}, -2", "add word ptr {m}, 0x1234",
    "test byte ptr {m}, 1", "movzx eax, word ptr {m}", "bts dword ptr {m}, 9",
    "vmovdqu ymm1, ymmword ptr {m}", "movups xmmword ptr {m}, xmm9",
)  # fmt: skip
# Where the register that tells the bit is none of the address's.
OF_BITS = (
    *(mode for mode in MODES if "rcx" not in mode.registers),
    Mode("gs:[rbx+r8+0x10]", {"rbx": 0x1000, "r8": 0x30, "gs_base": TARGET - 0x1040}),
)
LOW = tuple(mode for mode in MODES if not any(name[1:].isdigit() for name in mode.registers))


def cases(*, wide: bool) -> list[Case]:
    """All of them. `wide`: also those of AVX-512."""
    found = [*_in_each_mode(EVERYWHERE), *_direct(), *_strings()]
    found += _in_modes(_general(), MODES)
    found += _in_modes(_bits(), OF_BITS)
    found += _in_modes(_high_bytes(), LOW)
    found += _in_modes(_vectors(), MODES)
    if wide:
        found += _in_modes(_wide_vectors(), MODES)
        found += _in_each_mode(("vmovdqu64 zmmword ptr {m}, zmm20", "vmovdqu8 ymm29, ymmword ptr {m}"))
    return found
