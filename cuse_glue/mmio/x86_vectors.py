"""Moves between memory and a vector register of x86: SSE, AVX, and of AVX-512 what has no mask.

Ref: Intel SDM volume 2; 14.8 of volume 1: an instruction with VEX or EVEX clears what is above what
it writes, one of SSE leaves it.
"""

from typing import Final

from .instruction import Bus, Instruction, Kind, Vectors, Words
from .x86_form import Form, UnknownInstruction
from .x86_operations import finished

_WHOLE: Final = 0  # as many bytes as the vector has
_WORD: Final = -1  # as many as the general operand has

# (map, prefix, opcode) -> (stores, bytes). Loads of fewer bytes than 16 clear the rest of 16.
_MOVES: Final[dict[tuple[int, int, int], tuple[bool, int]]] = {
    (1, 0, 0x10): (False, _WHOLE), (1, 1, 0x10): (False, _WHOLE), (1, 2, 0x10): (False, 4), (1, 3, 0x10): (False, 8),
    (1, 0, 0x11): (True, _WHOLE), (1, 1, 0x11): (True, _WHOLE), (1, 2, 0x11): (True, 4), (1, 3, 0x11): (True, 8),
    (1, 0, 0x13): (True, 8), (1, 1, 0x13): (True, 8),
    (1, 0, 0x28): (False, _WHOLE), (1, 1, 0x28): (False, _WHOLE), (1, 0, 0x29): (True, _WHOLE), (1, 1, 0x29): (True, _WHOLE),
    (1, 0, 0x2B): (True, _WHOLE), (1, 1, 0x2B): (True, _WHOLE),
    (1, 1, 0x6E): (False, _WORD), (1, 1, 0x7E): (True, _WORD), (1, 2, 0x7E): (False, 8), (1, 1, 0xD6): (True, 8),
    (1, 1, 0x6F): (False, _WHOLE), (1, 2, 0x6F): (False, _WHOLE), (1, 1, 0x7F): (True, _WHOLE), (1, 2, 0x7F): (True, _WHOLE),
    (1, 1, 0xE7): (True, _WHOLE), (1, 3, 0xF0): (False, _WHOLE), (2, 1, 0x2A): (False, _WHOLE),
}  # fmt: skip
_EVEX_ONLY: Final = {(1, 3, 0x6F): (False, _WHOLE), (1, 3, 0x7F): (True, _WHOLE)}
_NOT_EVEX: Final = {(1, 3, 0xF0)}
_HALVES: Final = {0x12: 0, 0x16: 8, 0x17: 8}  # movlps, movhps, and movlpd, movhpd: which byte they begin at


def vector(form: Form) -> Instruction:
    """UnknownInstruction: no such move."""
    if form.opcode in _HALVES and form.map == 1:
        return _half(form)
    row = form.map, form.prefix, form.opcode
    move = _MOVES.get(row) or (_EVEX_ONLY.get(row) if form.is_evex else None)
    if move is None or (form.is_evex and row in _NOT_EVEX):
        raise UnknownInstruction
    stores, size = move
    if size == _WHOLE:
        size = form.vector_bytes or 16
    elif size == _WORD:
        size = 8 if form.wide else 4
    form.modrm()
    address, number, clear = form.address(unit=size), form.reg | form.reg_high, bool(form.vector_bytes)

    def save(words: Words, bus: Bus, vectors: Vectors) -> None:
        bus.store(address(words), size, vectors.read(number, size))

    def fetch(words: Words, bus: Bus, vectors: Vectors) -> None:
        vectors.write(number, max(size, 16), bus.load(address(words), size), clear)

    return finished(form, Kind.STORE if stores else Kind.LOAD, size, address, save if stores else fetch)


def _half(form: Form) -> Instruction:
    if form.prefix > 1 or (form.vector_bytes and form.opcode != 0x17):
        raise UnknownInstruction  # movsldup and others; a third register gives the other half
    start, stores = _HALVES[form.opcode], form.opcode == 0x17
    form.modrm()
    address, number = form.address(unit=8), form.reg | form.reg_high
    within = (1 << 64) - 1

    def save(words: Words, bus: Bus, vectors: Vectors) -> None:
        bus.store(address(words), 8, vectors.read(number, start + 8) >> 8 * start)

    def fetch(words: Words, bus: Bus, vectors: Vectors) -> None:
        value = bus.load(address(words), 8) << 8 * start
        vectors.write(number, 16, vectors.read(number, 16) & ~(within << 8 * start) | value, False)

    return finished(form, Kind.STORE if stores else Kind.LOAD, 8, address, save if stores else fetch)
