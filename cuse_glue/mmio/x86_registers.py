"""General registers as operands of x86 instructions: which bits of which word, and what becomes of
the others.
"""

from collections.abc import Callable

from .instruction import Words
from .x86_form import RAX, Form

Read = Callable[[Words], int]
Write = Callable[[Words, int], None]


def reader(form: Form, size: int) -> Read:
    """The register that ModRM's middle field names, its lowest `size` bytes."""
    slot, shift = _place(form, size)
    most = (1 << 8 * size) - 1
    if not shift:
        return lambda words: words[slot] & most
    return lambda words: words[slot] >> shift & most


def writer(form: Form, size: int) -> Write:
    """Puts a value of `size` bytes into that register. 4 bytes clear all above, fewer do not."""
    slot, shift = _place(form, size)
    return _put(slot, shift, size)


def accumulator(form: Form, size: int) -> tuple[Read, Write]:
    """AL, AX, EAX or RAX."""
    slot = form.slot(RAX)
    most = (1 << 8 * size) - 1
    return lambda words: words[slot] & most, _put(slot, 0, size)


def _place(form: Form, size: int) -> tuple[int, int]:
    if size == 1 and form.reg >= 4 and not form.has_rex:
        return form.slot(form.reg - 4), 8  # AH CH DH BH
    return form.slot(form.reg | form.reg_high), 0


def _put(slot: int, shift: int, size: int) -> Write:
    if size >= 4:

        def put_all(words: Words, value: int) -> None:
            words[slot] = value

        return put_all
    others = ~((1 << 8 * size) - 1 << shift)

    def put(words: Words, value: int) -> None:
        words[slot] = words[slot] & others | value << shift

    return put
