"""The form of an x86 instruction: prefixes, opcode, and the operand in memory. What an instruction
does is in `x86_operations.py`.

Ref: Intel SDM volume 2, chapter 2 (instruction format; 2.3 VEX, 2.7 EVEX); AMD APM volume 3,
chapter 1.
"""

from dataclasses import dataclass
from typing import Final

from .instruction import Address, Words

U32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a register set has what, as indexes of words."""

    bits: int  # of a word
    general: tuple[int, ...]  # by the number that instructions have for it: rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15
    pointer: int  # of instructions
    flags: int
    called: int  # the number of the system call that the thread is in; all bits set: in none
    fs_base: int | None  # None: not there
    gs_base: int | None


# struct user_regs_struct and user_regs_struct32; Ref: v7.3 arch/x86/include/asm/user_64.h,
# user_32.h
X86_64: Final = Layout(64, (10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0), 16, 18, 15, 21, 22)
I386: Final = Layout(32, (6, 1, 2, 0, 15, 5, 3, 4), 12, 14, 11, None, None)

RAX: Final = 0
RCX: Final = 1
RDX: Final = 2
RBX: Final = 3
RSI: Final = 6
RDI: Final = 7
_RSP: Final = 4
_RBP: Final = 5

_FS: Final = 0x64
_GS: Final = 0x65
_SEGMENTS: Final = (0x26, 0x2E, 0x36, 0x3E, _FS, _GS)


class UnknownInstruction(Exception):
    """No instruction that is known here."""


class CutInstruction(Exception):
    """The bytes end before the instruction does."""


class Form:
    """One instruction as it is read, byte by byte."""

    def __init__(self, code: bytes, layout: Layout) -> None:
        """Reads prefixes and opcode. UnknownInstruction, CutInstruction."""
        self.code = code
        self.layout = layout
        self.at = 0  # of the next byte
        self.small = False  # prefix 66
        self.repeat = 0  # prefix F2 or F3, the last
        self.segment: int | None = None  # index of the word that is added to addresses
        self.address_bits = layout.bits
        self.wide = self.reg_high = self.index_high = self.base_high = 0  # REX.W, R, X, B, the latter three as 8
        self.has_rex = False
        self.vector_bytes = 0  # 0: no VEX or EVEX prefix
        self.is_evex = False
        self.map = 0  # of opcodes: 1 is 0F, 2 is 0F38, 3 is 0F3A
        self.opcode = 0
        self.reg = self.mode = self.rm = 0  # of the ModRM byte
        self._read_prefixes()

    @property
    def prefix(self) -> int:
        """Which prefix is part of a vector's opcode, as VEX numbers them: none, 66, F3, F2."""
        return {0xF3: 2, 0xF2: 3}.get(self.repeat, int(self.small))

    @property
    def operand_size(self) -> int:
        """Bytes of a general operand that is not of one byte."""
        return 8 if self.wide else 2 if self.small else 4

    def byte(self) -> int:
        """The next byte."""
        if self.at >= len(self.code):
            raise CutInstruction
        self.at += 1
        return self.code[self.at - 1]

    def number(self, size: int, *, signed: bool = True) -> int:
        """The next `size` bytes."""
        self.at += size
        if self.at > len(self.code):
            raise CutInstruction
        return int.from_bytes(self.code[self.at - size : self.at], "little", signed=signed)

    def slot(self, number: int) -> int:
        """The word of a general register."""
        return self.layout.general[number]

    # --- prefixes ---

    def _read_prefixes(self) -> None:
        byte = self.byte()
        while True:
            if byte == 0x66:
                self.small = True
            elif byte == 0x67:
                if self.layout.bits == 32:
                    raise UnknownInstruction  # addresses of 16 bits
                self.address_bits = 32
            elif byte in (0xF2, 0xF3):
                self.repeat = byte
            elif byte in _SEGMENTS:
                self._override(byte)
            elif byte != 0xF0:
                break
            byte = self.byte()
        if self.layout.bits == 64 and byte & 0xF0 == 0x40:
            self.has_rex = True
            self.wide, self.reg_high, self.index_high, self.base_high = (
                byte & 8,
                (byte & 4) << 1,
                (byte & 2) << 2,
                (byte & 1) << 3,
            )
            byte = self.byte()
        if byte in (0xC4, 0xC5, 0x62) and self._is_vector_prefix():
            if self.small or self.repeat or self.has_rex:
                raise UnknownInstruction
            {0xC4: self._read_vex3, 0xC5: self._read_vex2, 0x62: self._read_evex}[byte]()
            return
        if byte == 0x0F:
            self.map, byte = 1, self.byte()
            if byte in (0x38, 0x3A):
                self.map, byte = 2 if byte == 0x38 else 3, self.byte()
        self.opcode = byte

    def _override(self, byte: int) -> None:
        # The others have base 0 in 64-bit mode. In 32-bit mode, too, unless the program has loaded
        # them itself.
        if byte not in (_FS, _GS):
            if self.layout.bits == 32:
                self.segment = None
            return
        self.segment = self.layout.fs_base if byte == _FS else self.layout.gs_base
        if self.segment is None:
            raise UnknownInstruction

    def _is_vector_prefix(self) -> bool:
        """In 32-bit mode these bytes are LES, LDS and BOUND, whose operand is in memory."""
        if self.at >= len(self.code):
            raise CutInstruction
        return self.layout.bits == 64 or self.code[self.at] >= 0xC0

    def _read_vex2(self) -> None:
        byte = self.byte()
        self.reg_high = 0 if byte & 0x80 else 8
        self.map = 1
        self._end_vector_prefix(byte >> 3 & 15, 16 << (byte >> 2 & 1), byte & 3)

    def _read_vex3(self) -> None:
        first, second = self.byte(), self.byte()
        self._read_inverted(first)
        self.map = first & 31
        self._read_wide(second)
        self._end_vector_prefix(second >> 3 & 15, 16 << (second >> 2 & 1), second & 3)

    def _read_evex(self) -> None:
        first, second, third = self.byte(), self.byte(), self.byte()
        # No mask, no broadcast or rounding, no third register, no vector of more than 64 bytes.
        if first & 8 or not second & 4 or third & 0x9F != 8 or third >> 5 & 3 == 3:
            raise UnknownInstruction
        self._read_inverted(first)
        self.reg_high |= 0 if first & 0x10 or self.layout.bits == 32 else 16
        self.map = first & 7
        self._read_wide(second)
        self.is_evex = True
        self._end_vector_prefix(second >> 3 & 15, 16 << (third >> 5 & 3), second & 3)

    def _read_inverted(self, byte: int) -> None:
        if self.layout.bits == 64:
            self.reg_high, self.index_high, self.base_high = (0 if byte & bit else 8 for bit in (0x80, 0x40, 0x20))

    def _read_wide(self, byte: int) -> None:
        self.wide = byte >> 4 & 8 if self.layout.bits == 64 else 0

    def _end_vector_prefix(self, third_register: int, size: int, prefix: int) -> None:
        if third_register != 15:
            raise UnknownInstruction
        self.vector_bytes = size
        self.small, self.repeat = prefix == 1, {2: 0xF3, 3: 0xF2}.get(prefix, 0)
        self.opcode = self.byte()

    # --- the operand in memory ---

    def modrm(self) -> None:
        """Read the ModRM byte. UnknownInstruction: its operand is a register."""
        byte = self.byte()
        self.mode, self.reg, self.rm = byte >> 6, byte >> 3 & 7, byte & 7
        if self.mode == 3:
            raise UnknownInstruction

    def address(self, unit: int = 1, immediate: int = 0) -> Address:
        """The operand that ModRM names; reads SIB and displacement. `unit`: what a displacement of
        one byte counts, if the prefix is EVEX.

        `immediate`: how many bytes of the instruction follow.
        """
        base: int | None = self.rm
        index: int | None = None
        scale = 0
        if self.rm == _RSP:
            sib = self.byte()
            base, scale = sib & 7, sib >> 6
            number = sib >> 3 & 7 | self.index_high
            index = None if number == _RSP else self.slot(number)
        offset = 0
        from_here = False
        if self.mode == 0 and base == _RBP:
            from_here = self.layout.bits == 64 and self.rm == _RBP
            base, offset = None, self.number(4)
        elif self.mode == 1:
            offset = self.number(1) * (unit if self.is_evex else 1)
        elif self.mode == 2:
            offset = self.number(4)
        if from_here:
            return self._sum(self.layout.pointer, None, 0, offset + self.at + immediate)
        return self._sum(None if base is None else self.slot(base | self.base_high), index, scale, offset)

    def pointed(self, number: int) -> Address:
        """The operand that general register `number` points to, in the prefix's segment, if any."""
        return self._sum(self.slot(number), None, 0, 0)

    def direct(self) -> Address:
        """The operand whose whole address follows in the instruction."""
        return self._sum(None, None, 0, self.number(self.address_bits // 8, signed=False))

    def _sum(self, base: int | None, index: int | None, scale: int, offset: int) -> Address:
        most = (1 << self.address_bits) - 1
        segment = self.segment
        if index is None and segment is None:
            if base is None:
                constant = offset & most
                return lambda words: constant
            start = base
            return lambda words: words[start] + offset & most

        def far(words: Words) -> int:
            place = offset
            if base is not None:
                place += words[base]
            if index is not None:
                place += words[index] << scale
            place &= most
            return place if segment is None else place + words[segment] & U64

        return far
