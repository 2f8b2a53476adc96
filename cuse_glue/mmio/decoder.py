"""From the bytes of an instruction to what it does to memory.

It knows the moves and the arithmetic that compilers make of loads and stores. For all others
`decode` returns None: the processor itself carries them out (`stepper.py`).
"""

from typing import Final

from . import x86_operations as general
from .instruction import Instruction
from .x86_form import I386, X86_64, CutInstruction, Form, Layout, UnknownInstruction
from .x86_operations import Reader
from .x86_strings import string
from .x86_vectors import vector

__all__ = ["I386", "LONGEST", "X86_64", "CutInstruction", "Layout", "decode"]

LONGEST: Final = 15  # bytes of an instruction

_PLAIN: Final[dict[tuple[int, int], Reader]] = {
    **{(0, opcode): general.arithmetic for opcode in range(0x40) if opcode & 7 < 4},
    (0, 0x63): general.movsxd,
    (0, 0x80): general.group_1, (0, 0x81): general.group_1, (0, 0x83): general.group_1,
    (0, 0x84): general.test_register, (0, 0x85): general.test_register,
    (0, 0x86): general.xchg, (0, 0x87): general.xchg,
    (0, 0x88): general.mov_store, (0, 0x89): general.mov_store, (0, 0x8A): general.mov_load, (0, 0x8B): general.mov_load,
    **{(0, opcode): general.mov_direct for opcode in range(0xA0, 0xA4)},
    **{(0, opcode): string for opcode in (0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD)},
    (0, 0xC6): general.mov_immediate, (0, 0xC7): general.mov_immediate,
    (0, 0xF6): general.group_3, (0, 0xF7): general.group_3, (0, 0xFE): general.group_4, (0, 0xFF): general.group_4,
    **{(1, opcode): general.bit_register for opcode in (0xA3, 0xAB, 0xB3, 0xBB)}, (1, 0xBA): general.bit_immediate,
    (1, 0xB0): general.cmpxchg, (1, 0xB1): general.cmpxchg, (1, 0xC7): general.cmpxchg_pair,
    (1, 0xB6): general.movzx, (1, 0xB7): general.movzx, (1, 0xBE): general.movsx, (1, 0xBF): general.movsx,
    (1, 0xC0): general.xadd, (1, 0xC1): general.xadd, (1, 0xC3): general.movnti,
    (2, 0xF0): general.movbe, (2, 0xF1): general.movbe, (2, 0xF9): general.movnti,
}  # fmt: skip


def decode(code: bytes, layout: Layout) -> Instruction | None:
    """The instruction that `code` begins with; None: it is not known. CutInstruction: the bytes end
    before the instruction does, and are fewer than LONGEST.
    """
    try:
        form = Form(code, layout)
        read = None if form.vector_bytes else _PLAIN.get((form.map, form.opcode))
        return (read or vector)(form)
    except UnknownInstruction:
        return None
    except CutInstruction:
        if len(code) < LONGEST:
            raise
        return None
