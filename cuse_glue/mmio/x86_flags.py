"""What arithmetic of x86 does to its flags. Values are not negative, of `size` bytes; flags are
those bits of EFLAGS that are set.

Ref: Intel SDM volume 1, 3.4.3.1. AF of a logical operation is undefined there; processors clear it.
"""

from collections.abc import Callable
from typing import Final

CF: Final = 0x001
PF: Final = 0x004
AF: Final = 0x010
ZF: Final = 0x040
SF: Final = 0x080
OF: Final = 0x800
DF: Final = 0x400
ALL: Final = CF | PF | AF | ZF | SF | OF

_PARITY: Final = bytes(0 if byte.bit_count() & 1 else PF for byte in range(256))

Operation = Callable[[int, int, int, int], tuple[int, int]]
"""(left, right, size, flags before) -> (result, ALL flags after)."""


def _shown(result: int, size: int) -> int:
    return _PARITY[result & 0xFF] | (0 if result else ZF) | (SF if result >> 8 * size - 1 else 0)


def add(left: int, right: int, size: int, flags: int = 0) -> tuple[int, int]:
    """`flags` are not looked at."""
    return _add(left, right, size, 0)


def add_with_carry(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """ADC."""
    return _add(left, right, size, flags & CF)


def subtract(left: int, right: int, size: int, flags: int = 0) -> tuple[int, int]:
    """Also what a comparison does. `flags` are not looked at."""
    return _subtract(left, right, size, 0)


def subtract_with_borrow(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """SBB."""
    return _subtract(left, right, size, flags & CF)


def conjoin(left: int, right: int, size: int, flags: int = 0) -> tuple[int, int]:
    """AND, TEST."""
    return left & right, _shown(left & right, size)


def disjoin(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """OR."""
    return left | right, _shown(left | right, size)


def differ(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """XOR."""
    return left ^ right, _shown(left ^ right, size)


def increment(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """By one; the carry stays."""
    result, after = _add(left, 1, size, 0)
    return result, after & ~CF | flags & CF


def decrement(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """By one; the carry stays."""
    result, after = _subtract(left, 1, size, 0)
    return result, after & ~CF | flags & CF


def negate(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """NEG."""
    return _subtract(0, left, size, 0)


def invert(left: int, right: int, size: int, flags: int) -> tuple[int, int]:
    """NOT."""
    return ~left & (1 << 8 * size) - 1, flags & ALL


def _add(left: int, right: int, size: int, carry: int) -> tuple[int, int]:
    top = 8 * size - 1
    total = left + right + carry
    result = total & (2 << top) - 1
    after = _shown(result, size) | (left ^ right ^ result) & AF
    if total >> top >> 1:
        after |= CF
    if (left ^ result) & (right ^ result) & 1 << top:
        after |= OF
    return result, after


def _subtract(left: int, right: int, size: int, borrow: int) -> tuple[int, int]:
    top = 8 * size - 1
    total = left - right - borrow
    result = total & (2 << top) - 1
    after = _shown(result, size) | (left ^ right ^ result) & AF
    if total < 0:
        after |= CF
    if (left ^ right) & (left ^ result) & 1 << top:
        after |= OF
    return result, after


# By the three bits that opcodes 00 to 3F and 80 to 83 have for it. CMP, of which only the flags
# count, is the last.
GROUP_1: Final[tuple[Operation, ...]] = (
    add, disjoin, add_with_carry, subtract_with_borrow, conjoin, subtract, differ, subtract,
)  # fmt: skip
COMPARE: Final = 7
