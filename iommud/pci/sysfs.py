"""What there is in /sys: directories, links, and files that are read and written by somebody's
functions.

A file of text is read whole and shown in pieces; what is written to it is taken whole, as the
kernel takes it. A binary one is read and written anywhere.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from errno import EINVAL, EIO
from typing import Final

from ..errors import IoctlError

PAGE: Final = 4096
U64_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Directory:
    """It may be there already, with things of others in it."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, relative."""

    target: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of `size` bytes, as stat(2) tells. `read(offset, length)` and `write(offset, data)`
    may raise IoctlError; None: EIO. A write may wait, and returns how many bytes it has taken.

    `is_text`: a value, which is read as a whole; otherwise bytes, which have positions. `constant`:
    what is read never changes. `public`: how many bytes can be read without CAP_SYS_ADMIN; None:
    all.
    """

    mode: int
    size: int = PAGE
    read: Callable[[int, int], bytes] | None = None
    write: Callable[[int, bytes], Awaitable[int]] | None = None
    is_text: bool = False
    constant: bool = False
    public: int | None = None


Entry = Directory | Link | File
Tree = Mapping[str, Entry]


def constant(text: str, mode: int = 0o444) -> File:
    """A file that always says the same."""
    return File(mode, read=_piece(lambda: text), is_text=True, constant=True)


def text(
    show: Callable[[], str] | None = None,
    store: Callable[[str], Awaitable[None] | None] | None = None,
    mode: int | None = None,
) -> File:
    """A file that says what `show` returns; what is written goes to `store`, which may be async.
    Default mode: 0644, 0444 or 0200.
    """
    if mode is None:
        mode = (0o444 if show else 0) | (0o200 if store else 0)
    return File(mode, read=_piece(show) if show else None, write=_whole(store) if store else None, is_text=True)


def number(written: str) -> int:
    """A number as kstrtoul takes it: decimal, 0x or 0, an optional newline. EINVAL: it is none.

    Ref: v7.3 lib/kstrtox.c kstrtoul
    """
    digits = written.removesuffix("\n").removeprefix("+").lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    try:
        if not re.fullmatch(r"[0-9a-fx]+", digits):
            raise ValueError  # signs, spaces and underscores, which Python would take
        value = int(digits, base)
    except ValueError:
        raise IoctlError(EINVAL, f"{written!r} is not a number") from None
    if value > U64_MAX:
        raise IoctlError(EINVAL, f"{written!r} is not a number of 64 bits")
    return value


def boolean(written: str) -> bool:
    """Yes or no, by how the word begins. EINVAL: neither. Ref: v7.3 lib/kstrtox.c kstrtobool"""
    word = written.lower()
    if word.startswith(("e", "y", "t", "1", "on")):
        return True
    if word.startswith(("d", "n", "f", "0", "of")):
        return False
    raise IoctlError(EINVAL, f"{written!r} is neither 1 nor 0")


def same(written: str, name: str) -> bool:
    """They are equal but for a newline at the end."""
    return written.removesuffix("\n") == name


def _piece(show: Callable[[], str]) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        return show().encode("utf-8", "surrogateescape")[offset : offset + length]

    return read


def _whole(store: Callable[[str], Awaitable[None] | None]) -> Callable[[int, bytes], Awaitable[int]]:
    async def write(offset: int, data: bytes) -> int:
        if len(data) > PAGE:
            raise IoctlError(EIO, f"{len(data)} bytes are more than a page")
        waits = store(data.split(b"\0")[0].decode("utf-8", "surrogateescape"))
        if waits is not None:
            await waits
        return len(data)

    return write
