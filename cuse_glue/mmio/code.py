"""The instruction that a stopped thread is about to carry out.

Its bytes are read through ptrace(2), but only from pages that are in memory: another page might
have to come from a file that we serve ourselves, and this thread of ours would wait for itself.
"""

import os
from collections import OrderedDict
from typing import Final

from ..system.means import spare, with_means
from .bus import PAGE, is_present
from .decoder import LONGEST, CutInstruction, decode
from .instruction import Instruction
from .trace import Hand

_KEPT: Final = 16  # threads whose pagemap is kept open
_KNOWN: Final = 4096  # instructions
_SECOND: Final = 7  # how far the second of two words is from the first, bytes
_U64: Final = (1 << 64) - 1


class NotHere(Exception):
    """A page of the instruction is not in memory, or is none of a program's."""


class Code:
    """Reads instructions of the thread whose registers a hand has read last."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._pagemaps: OrderedDict[int, int] = OrderedDict()
        self._known: dict[tuple[tuple[int, int], int], tuple[bytes, Instruction | None]] = {}
        spare(self.close)

    def close(self) -> None:
        """Keep nothing open."""
        while self._pagemaps:
            os.close(self._pagemaps.popitem()[1])

    def at(self, tid: int, address: int) -> tuple[bytes, Instruction | None]:
        """Up to LONGEST bytes at `address`, and their instruction (None: not known). NotHere."""
        if not self._is_here(tid, address):
            raise NotHere
        rest = PAGE - address % PAGE
        if rest < LONGEST:
            found = self._at_the_end(tid, address, rest)
            if found is not None:
                return found
        key = self._hand.code(tid, address), self._hand.layout.bits
        known = self._known.get(key)
        if known is None:
            code = _bytes(key[0])
            known = code, decode(code, self._hand.layout)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = known
        return known

    def _at_the_end(self, tid: int, address: int, rest: int) -> tuple[bytes, Instruction | None] | None:
        """As `at`, by the `rest` bytes up to the end of a page. None: the instruction goes on in
        the next page, which is there.
        """
        code = _bytes(self._hand.code(tid, address + rest - LONGEST))[LONGEST - rest :]
        try:
            return code, decode(code, self._hand.layout)
        except CutInstruction:
            pass
        if not self._is_here(tid, address + rest):
            raise NotHere
        return None

    def _is_here(self, tid: int, address: int) -> bool:
        fd = self._pagemaps.get(tid)
        here = fd is not None and is_present(fd, address)
        if not here:  # or the pagemap is of a program that had this number before
            if fd is not None:
                os.close(self._pagemaps.pop(tid))
            try:
                fd = with_means(lambda: os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return False
            self._pagemaps[tid] = fd
            if len(self._pagemaps) > _KEPT:
                os.close(self._pagemaps.popitem(last=False)[1])
            here = is_present(fd, address)
        return here


def _bytes(words: tuple[int, int]) -> bytes:
    first, second = ((word & _U64).to_bytes(8, "little") for word in words)
    return first[:_SECOND] + second
