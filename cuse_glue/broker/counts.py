"""Counts that the workers of one device share: how much each of them has of something, and how much
all have.

The table is shared memory (a memfd, which each worker maps), in pages of ENTRIES. Whatever is
counted has a number of 64 bits (`key_of`), which decides on which page its entries are. An entry
belongs to one worker. Only that worker changes it, under a lock of the page, which the kernel takes
back if the holder dies. The broker removes the entries of workers that have died.

Nobody waits for long: the lock is held for a few microseconds, in which nothing of a client is
touched.
"""

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Final

_ENTRY: Final = Struct("=QQq8x")  # key, number of the worker (0: free), count
_USED: Final = Struct(
    "=Q"
)  # in place of a page's first entry: how many of the others were ever in use at the same time
PAGE: Final = 4096  # bytes
ENTRIES: Final = PAGE // _ENTRY.size - 1
PAGES: Final = 256
_NOBODY: Final = 0


class Full(Exception):
    """No entry is free on the page; nothing was counted."""


class Table:
    """The table. Made by the broker before it forks."""

    def __init__(self) -> None:
        """OSError: there is no memory, or no descriptor."""
        self.fd: Final = os.memfd_create("iommud-counts", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, PAGES * PAGE)
        self._memory = mmap.mmap(self.fd, PAGES * PAGE)

    def add(self, key: int, worker: int, count: int) -> tuple[int, int]:
        """Count `count` more (fewer, if negative) of `key` for `worker`. Returns how many all
        workers have now, and how many this one has. Raises Full.
        """
        page = key % PAGES * PAGE
        with self._locked(page):
            return self._add(page, key, worker, count)

    def _add(self, page: int, key: int, worker: int, count: int) -> tuple[int, int]:
        memory = self._memory
        free = mine = 0
        others = 0
        for at, its, whose, number in self._used(page):
            if whose == _NOBODY:
                free = at
            elif its == key:
                if whose == worker:
                    mine = at
                    count += number
                else:
                    others += number
        if not mine and not free:
            (used,) = _USED.unpack_from(memory, page)
            if used == ENTRIES:
                raise Full
            free = page + (used + 1) * _ENTRY.size
            _USED.pack_into(memory, page, used + 1)
        _ENTRY.pack_into(memory, mine or free, *((key, worker, count) if count else (0, _NOBODY, 0)))
        return others + count, count

    def _used(self, page: int) -> Iterator[tuple[int, int, int, int]]:
        """The entries of a page that were ever in use: where, key, worker, count."""
        (used,) = _USED.unpack_from(self._memory, page)
        for at in range(page + _ENTRY.size, page + (used + 1) * _ENTRY.size, _ENTRY.size):
            yield at, *_ENTRY.unpack_from(self._memory, at)

    def _of(self, key: int) -> Iterator[tuple[int, int]]:
        """The workers that have any of `key`, and how many each has."""
        for _, its, whose, number in self._used(key % PAGES * PAGE):
            if its == key and whose != _NOBODY:
                yield whose, number

    def claim(self, key: int, worker: int) -> bool:
        """Count one of `key` for `worker`, if no other worker has any. Raises Full."""
        page = key % PAGES * PAGE
        with self._locked(page):
            if any(whose != worker for whose, _ in self._of(key)):
                return False
            self._add(page, key, worker, 1)
            return True

    def move(self, key: int, giver: int, taker: int) -> None:
        """What worker `giver` has of `key` is worker `taker`'s from now on. The broker, when no
        worker can do so: there is no moment in which neither has it.
        """
        page = key % PAGES * PAGE
        with self._locked(page):
            for at, its, whose, count in self._used(page):
                if its == key and whose == giver:
                    _ENTRY.pack_into(self._memory, at, key, taker, count)

    def total(self, key: int) -> int:
        """How many of `key` all workers have."""
        return sum(number for _, number in self._of(key))

    def of(self, key: int, worker: int) -> int:
        """How many of `key` this worker has."""
        return sum(number for whose, number in self._of(key) if whose == worker)

    def who(self, key: int) -> list[int]:
        """The workers that have any of `key`."""
        return [whose for whose, _ in self._of(key)]

    def forget(self, worker: int) -> None:
        """Remove the entries of a worker that has ended."""
        for page in range(0, PAGES * PAGE, PAGE):
            for at, _, whose, _ in self._used(page):
                if whose == worker:
                    with self._locked(page):
                        _ENTRY.pack_into(self._memory, at, 0, _NOBODY, 0)

    def entries(self) -> list[tuple[int, int, int]]:
        """What is counted, as key, worker and count. For tests and people."""
        places = (at for at in range(0, PAGES * PAGE, _ENTRY.size) if at % PAGE)
        found = (_ENTRY.unpack_from(self._memory, at) for at in places)
        return [entry for entry in found if entry[1] != _NOBODY]

    @contextmanager
    def _locked(self, page: int) -> Iterator[None]:
        # A POSIX lock belongs to a process, and does not keep its threads from each other. So only
        # a worker's main thread may come here.
        fcntl.lockf(self.fd, fcntl.LOCK_EX, PAGE, page)
        try:
            yield
        finally:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, PAGE, page)


def key_of(*words: object) -> int:
    """The number under which something with these words is counted."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
