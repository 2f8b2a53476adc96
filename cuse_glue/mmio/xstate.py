"""The vector registers of a thread, in what ptrace(2) gives as NT_X86_XSTATE: the standard form of
XSAVE.

A component that is not in use has no bit in XSTATE_BV, and its registers are zero whatever its
bytes are. Ref: Intel SDM volume 1, 13.4 (legacy region, XSAVE header, standard format).
"""

from collections.abc import Callable, Iterator
from typing import Final

_SSE: Final = 1  # components, by their bit
_AVX: Final = 2
_HIGH_256: Final = 6
_HIGH_16: Final = 7
_HEADER: Final = 512  # where XSTATE_BV is, bytes
_ENABLED: Final = 464  # where Linux puts XCR0
_STARTS: Final = {_SSE: 160, _AVX: 576}  # the others' differ between makers
_SIZES: Final = {_SSE: 16 * 16, _AVX: 16 * 16, _HIGH_256: 16 * 32, _HIGH_16: 16 * 64}

Where = Callable[[int], int]
"""Where a component lies, in bytes from the start: CPUID (13, component).EBX."""


class XState:
    """A `Vectors` on such bytes, which it changes."""

    def __init__(self, state: bytearray, where: Where) -> None:
        self.state = state
        self._where = where

    def read(self, number: int, size: int) -> int:
        value = 0
        for component, index, start, width in self._pieces(number):
            if start < size and self._is_used(component):
                at = self._start(component) + index * width
                value |= int.from_bytes(self.state[at : at + width], "little") << 8 * start
        return value & (1 << 8 * size) - 1

    def write(self, number: int, size: int, value: int, clear: bool) -> None:
        for component, index, start, width in self._pieces(number):
            if start < size:
                self._use(component)
            elif not (clear and self._is_used(component)):
                continue
            at = self._start(component) + index * width
            self.state[at : at + width] = (value >> 8 * start & (1 << 8 * width) - 1).to_bytes(width, "little")

    def _pieces(self, number: int) -> Iterator[tuple[int, int, int, int]]:
        """The parts of a register that exist. Each: component, index there, which byte of the
        register it begins at, and how many bytes it has.
        """
        if number >= 16:
            yield _HIGH_16, number - 16, 0, 64
            return
        yield _SSE, number, 0, 16
        enabled = int.from_bytes(self.state[_ENABLED : _ENABLED + 8], "little")
        if enabled >> _AVX & 1:
            yield _AVX, number, 16, 16
        if enabled >> _HIGH_256 & 1:
            yield _HIGH_256, number, 32, 32

    def _start(self, component: int) -> int:
        return _STARTS.get(component) or self._where(component)

    def _is_used(self, component: int) -> bool:
        return bool(self.state[_HEADER] >> component & 1)

    def _use(self, component: int) -> None:
        if not self._is_used(component):
            self.state[_HEADER] |= 1 << component
            at, size = self._start(component), _SIZES[component]
            self.state[at : at + size] = bytes(size)
