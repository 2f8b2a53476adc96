"""What one user gets of `iommud serve`, so that nobody uses up what all need.

Descriptors and memory are limits of each worker process. A user gets a number of workers, and one
more that serves all further open files. Objects and pinned pages are counted for all workers of a
user together, in a table that the workers share (cuse_glue/broker/counts.py).

The same table says which worker has a device. So one worker has it at a time, and a worker that
dies loses it.
"""

import resource
from collections.abc import Hashable
from errno import ENOMEM
from typing import Final

from cuse_glue.broker.counts import Full, Table, key_of

from ..engine.memory.share import Everywhere
from ..errors import IoctlError
from ..settings import Shares
from ..vfio.claims import open_group

NOBODY: Final = -1
# In the table: of the kernel, and of the process that has the bus. Workers have smaller numbers.
KERNEL: Final = 0xFFFF_FFFF
# objects that a worker gets at a time, so that it need not ask for each
LARGEST_GRANT: Final = 4096
TOO_MANY: Final = "too many workers count at the same time (cuse_glue.broker.counts.ENTRIES)"


def _lower(which: int, limit: int) -> None:
    soft, hard = resource.getrlimit(which)
    for known in soft, hard:
        limit = limit if known == resource.RLIM_INFINITY else min(limit, known)
    resource.setrlimit(which, (limit, limit))


def limit_process(shares: Shares) -> None:
    """Limit the calling process, a worker, to what one worker of a user may have."""
    _lower(resource.RLIMIT_NOFILE, shares.files)
    _lower(resource.RLIMIT_DATA, shares.memory)


class WorkerShare:
    """engine.memory.share.Share of one worker."""

    def __init__(self, table: Table, worker: int, shares: Shares) -> None:
        self._table = table
        self._worker = worker
        self._shares = shares
        self.assign(NOBODY)
        self._grant = max(min(LARGEST_GRANT, shares.objects // (4 * (shares.workers + 1))), 1)

    def assign(self, uid: int) -> None:
        """Tell whose file the worker serves, and who pays for its objects. There must be no objects
        yet.
        """
        self._uid = uid
        self._objects = key_of("objects", uid)

    def pinned_by_user(self, uid: int, npages: int) -> int:
        return self._count(key_of("user", uid), npages)

    def pinned_of_process(self, mm: Hashable, npages: int) -> int:
        return self._count(key_of("process", getattr(mm, "identity", mm)), npages)

    def grant(self, granted: int) -> int:
        others = self._count(self._objects, self._grant)
        if others + granted + self._grant > self._shares.objects:
            self._count(self._objects, -self._grant)
            raise IoctlError(
                ENOMEM,
                f"user {self._uid} has all of {self._shares.objects} objects and mappings that each user gets (--share objects=N)",
            )
        return granted + self._grant

    def give_back(self, granted: int, standing: int) -> int:
        spare = (granted - standing) // self._grant * self._grant
        if spare:
            self._count(self._objects, -spare)
        return granted - spare

    def claim(self, name: Hashable) -> bool:
        if not isinstance(name, Everywhere):
            return True
        return _claim(self._table, key_of("claim", name), self._worker)

    def release(self, name: Hashable) -> None:
        self.count(name, -1)

    def count(self, name: Hashable, more: int) -> int:
        return self._count(key_of("claim", name), more) if isinstance(name, Everywhere) else 0

    def closing(self, door: int) -> int:
        """How many open files of a door their clients have closed, but their workers have not
        yet.
        """
        return self._table.total(key_of("closing", door))

    def closed(self, door: int) -> None:
        """This worker has closed one of them. A file that the client never got is none."""
        key = key_of("closing", door)
        if self._table.of(key, self._worker) > 0:
            self._count(key, -1)

    def _count(self, key: int, count: int) -> int:
        """Add `count` for this worker, and return what the other workers have."""
        total, mine = _add(self._table, key, self._worker, count)
        return total - mine


class SharedBus:
    """file.vfio_devices.Shared: which devices vfio-pci has, and how many open files each has. The
    process that has the bus (sys_server.py) writes the first, workers write the second.
    """

    def __init__(self, table: Table, worker: int) -> None:
        self._table = table
        self._worker = worker

    def number(self, name: str) -> int | None:
        return self._table.total(key_of("number", name)) - 1 if self._is_kept(name) else None

    def opened(self, name: str, count: int) -> None:
        _add(self._table, key_of("open", name), self._worker, count)

    def open_files(self, name: str) -> int:
        """How many open files the device has."""
        return self._table.total(key_of("open", name))

    def who_has(self, name: str) -> list[int]:
        """The worker that has the device."""
        return self._table.who(key_of("claim", name))

    def keep(self, name: str, number: int) -> None:
        """Say which number the device has; -1: none."""
        self._set(key_of("kept", name), 1)
        self._set(key_of("number", name), number + 1)

    def claim(self, group: Hashable) -> bool:
        """For the kernel, whose number this has: native drivers have devices of the group. No
        effect if that was said already. False: a worker has a device of it.
        """
        key = key_of("claim", group)
        return bool(self._table.of(key, self._worker)) or _claim(self._table, key, self._worker)

    def release(self, group: Hashable) -> None:
        """Undo `claim`."""
        _add(self._table, key_of("claim", group), self._worker, -1)

    def _is_kept(self, name: str) -> bool:
        return bool(self._table.total(key_of("kept", name)))

    def _set(self, key: int, count: int) -> None:
        _add(self._table, key, self._worker, count - self._table.total(key))


def _add(table: Table, key: int, worker: int, count: int) -> tuple[int, int]:
    """Table.add. IoctlError(ENOMEM): it is full."""
    try:
        return table.add(key, worker, count)
    except Full:
        raise IoctlError(ENOMEM, TOO_MANY) from None


def _claim(table: Table, key: int, worker: int) -> bool:
    """Table.claim. IoctlError(ENOMEM): it is full."""
    try:
        return table.claim(key, worker)
    except Full:
        raise IoctlError(ENOMEM, TOO_MANY) from None


def note_moving(table: Table, group: int, giver: int, taker: int) -> None:
    """For the broker: the open file of this group goes from a worker to another."""
    table.move(key_of("claim", open_group(group)), giver, taker)


def note_closing(table: Table, door: int, worker: int) -> None:
    """For the broker: a client has closed an open file of this door, and its worker will."""
    try:
        table.add(key_of("closing", door), worker, 1)
    except Full:
        pass  # nobody waits for it
