"""movs, stos and lods, with and without a repetition: each element is an access of its own.

Ref: Intel SDM volume 2, REP: between two elements an instruction can be interrupted; the registers
tell how far it has come.
"""

from typing import Final

from .instruction import Bus, Instruction, Kind, Vectors, Words
from .x86_flags import DF
from .x86_form import RAX, RCX, RDI, RSI, Form
from .x86_operations import finished

MOST_ELEMENTS: Final = 256  # of one run, so that nobody waits long


def string(form: Form) -> Instruction:
    """A4, A5 movs; AA, AB stos; AC, AD lods."""
    size = form.operand_size if form.opcode & 1 else 1
    loads, stores = form.opcode & 0xFE != 0xAA, form.opcode & 0xFE != 0xAC
    source, target, counter, accumulator = (form.slot(number) for number in (RSI, RDI, RCX, RAX))
    from_memory = form.pointed(RSI)
    form.segment = None  # it is the source's only
    to_memory = form.pointed(RDI)
    place, pointer, repeats, length = form.layout.flags, form.layout.pointer, bool(form.repeat), 0
    most = (1 << form.address_bits) - 1
    within, whole_word = (1 << 8 * size) - 1, (1 << form.layout.bits) - 1

    def element(words: Words, bus: Bus) -> None:
        value = bus.load(from_memory(words), size) if loads else words[accumulator] & within
        if stores:
            bus.store(to_memory(words), size, value)
        elif size < 4:
            words[accumulator] = words[accumulator] & ~within | value
        else:
            words[accumulator] = value
        step = -size if words[place] & DF else size
        if loads:
            words[source] = (words[source] & most) + step & most
        if stores:
            words[target] = (words[target] & most) + step & most

    def act(words: Words, bus: Bus, vectors: Vectors) -> None:
        if not repeats:
            element(words, bus)
            return
        for _ in range(MOST_ELEMENTS):
            if not words[counter] & most:
                return
            element(words, bus)
            words[counter] = (words[counter] & most) - 1
        if words[counter]:
            words[pointer] = words[pointer] - length & whole_word  # `finished` adds it

    whole = finished(form, Kind.STRING, size, from_memory if loads else to_memory, act)
    length = whole.length
    return whole
