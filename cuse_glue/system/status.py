"""/proc/PID/status and /proc/TID/status: what the kernel tells of a process or thread, by name.

Ref: v7.3 fs/proc/array.c proc_pid_status
"""

from typing import Final

_MOST: Final = 1 << 14  # bytes; it has some 1500


class Status:
    """The file as it was when it was read."""

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        self._text = b"\n" + text

    def words(self, name: str) -> list[bytes]:
        """The words of one line; empty: this kernel does not have it."""
        key = f"\n{name}:".encode()
        at = self._text.find(key)
        if at < 0:
            return []
        begin = at + len(key)
        return self._text[begin : self._text.index(b"\n", begin)].split()

    def number(self, name: str, otherwise: int = 0) -> int:
        """The first word as a number; `otherwise`: there is none."""
        words = self.words(name)
        return int(words[0]) if words else otherwise

    def size(self, name: str) -> int:
        """A line in kB, in bytes."""
        return self.number(name) * 1024

    def mask(self, name: str) -> int | None:
        """The first word as a hexadecimal mask; None: there is none."""
        words = self.words(name)
        return int(words[0], 16) if words else None


def read(who: int | str) -> Status:
    """The status of a process or thread, by its number or `"self"`. OSError: it is gone."""
    with open(f"/proc/{who}/status", "rb", buffering=0) as file:
        return Status(file.read(_MOST))
