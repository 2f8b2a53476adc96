"""Objects and their IDs. Creation: reserve, fill, publish (or abort). Destruction: only of what
nothing needs.

An ID is given out at creation, but nobody finds the object by it before `publish`, which is the
last step and cannot fail. Two lists on each object say why it cannot go: `users` (objects that
would break) and `shortterm_users` (requests that work on it now). They are lists, not counters, so
that EBUSY can name who, and so that a test can compare the users with the graph.

In the kernel they are the counts `users` and `wait_cnt` (formerly `shortterm_users`).

Ref: v7.3 main.c (iommufd_object_*)
"""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBUSY, ENOENT, ENOMEM
from typing import Final, TypeVar

from ...errors import IoctlError
from ..memory.host import Host

ID_LAST: Final = (1 << 31) - 1


class Object:
    """Anything that a client names by an ID. `kind`: its name for people."""

    kind = "object"
    __slots__ = ("id", "shortterm_users", "users")

    def __init__(self) -> None:
        self.id = 0
        self.users: list[object] = []
        self.shortterm_users: list[object] = []

    def destroy(self) -> None:
        """Take down what the object is. Nothing uses it any more. Must not fail."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


Kind = TypeVar("Kind", bound=Object)


class ObjectTable:
    """The IDs of one context: from 1, always the lowest free one."""

    def __init__(self, host: Host | None = None) -> None:
        self._host = host or Host()
        self._objects: dict[int, Object | None] = {}
        self._free: list[int] = []
        self._next = 1

    def __len__(self) -> int:
        """How many IDs are taken, published or not."""
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        """The published objects, by ID."""
        return iter([found for _, found in sorted(self._objects.items()) if found is not None])

    def reserve(self, obj: Object) -> None:
        """Give `obj` the lowest free ID; it stays invisible. ENOMEM: all 2^31 - 1 IDs are taken, or
        the user's share of objects is.
        """
        self._host.take()
        if self._free:
            obj.id = heapq.heappop(self._free)
        elif self._next <= ID_LAST:
            obj.id = self._next
            self._next += 1
        else:
            self._host.give()
            raise IoctlError(ENOMEM, f"all {ID_LAST} object IDs are in use")
        self._objects[obj.id] = None

    def publish(self, obj: Object) -> None:
        """Make a reserved object visible."""
        self._objects[obj.id] = obj
        if self._host.observer is not None:
            self._host.observer.created(obj)

    def abort(self, obj: Object) -> None:
        """Give back the ID of an object that was reserved and never published."""
        self._forget(obj.id)

    def abort_and_destroy(self, obj: Object) -> None:
        """Take down an object that was reserved and never published."""
        obj.destroy()
        self.abort(obj)

    def get(self, number: int, kind: type[Kind]) -> Kind:
        """The published object with this ID and of this kind. ENOENT: no such ID, or another kind;
        the kernel does not tell the two apart.
        """
        found = self._objects.get(number)
        if not isinstance(found, kind):
            what = f"object {number} is of kind {found.kind}" if found is not None else f"there is no object {number}"
            raise IoctlError(ENOENT, f"{what}; wanted: {kind.kind}")
        return found

    def has(self, obj: Object) -> bool:
        """Whether the object is there: published, and not destroyed since."""
        return self._objects.get(obj.id) is obj

    @contextmanager
    def using(self, obj: Object, request: object) -> Iterator[None]:
        """For use around a wait: a request works on `obj`, so it cannot be destroyed (EBUSY)."""
        obj.shortterm_users.append(request)
        try:
            yield
        finally:
            obj.shortterm_users.remove(request)

    def remove(self, number: int) -> Object:
        """DESTROY: take the object out of the table, and take it down.

        ENOENT: no such ID. EBUSY: another object or a running request needs it. Never waits.
        """
        found = self._objects.get(number)
        if found is None:
            raise IoctlError(ENOENT, f"there is no object {number}")
        if found.users:
            raise IoctlError(EBUSY, f"{found} is in use by {', '.join(map(str, found.users[:8]))}")
        if found.shortterm_users:
            raise IoctlError(EBUSY, f"a request is running on {found}")
        self._forget(number)
        found.destroy()
        return found

    def remove_by_owner(self, obj: Object) -> None:
        """Destroy an object that its owner lets go of. Only the owner could still have been using
        it. Cannot fail.
        """
        assert not obj.users
        if self._objects.get(obj.id) is obj:
            self._forget(obj.id)
            obj.destroy()

    def entomb(self, obj: Object) -> None:
        """As `remove_by_owner`, but the ID stays taken. Ref: v7.3 iommufd_private.h
        iommufd_object_tombstone_user
        """
        assert not obj.users
        if self._objects.get(obj.id) is obj:
            self._objects[obj.id] = None
            if self._host.observer is not None:
                self._host.observer.gone(obj)
            obj.destroy()

    def remove_all(self) -> None:
        """Destroy everything, users before what they use. The file was released, so nobody can ask
        any more.

        Ref: v7.3 main.c iommufd_fops_release
        """
        while self._objects:
            leaves = [number for number, obj in sorted(self._objects.items()) if obj is None or not obj.users]
            if not leaves:
                raise AssertionError(f"users form a circle: {[str(o) for o in self]}")
            for number in leaves:
                if number not in self._objects:
                    continue  # went with one before it
                obj = self._objects[number]
                self._forget(number)
                if obj is not None:
                    obj.destroy()

    def _forget(self, number: int) -> None:
        obj = self._objects.pop(number)
        self._host.give()
        if self._host.observer is not None and obj is not None:
            self._host.observer.gone(obj)
        heapq.heappush(self._free, number)
        if not self._objects:
            self._free.clear()
            self._next = 1
