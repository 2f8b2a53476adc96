"""Who runs a client: root and the user nobody, or the ordinary user that we are."""

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.support import AS_NOBODY, IOMMUD

Check = tuple[str, Callable[[], str]]  # returns what is worth saying; AssertionError: it fails


@dataclass(frozen=True, slots=True)
class User:
    """`before` are the words before the command."""

    name: str
    before: Sequence[str]

    @property
    def is_root(self) -> bool:
        return os.geteuid() == 0 and not self.before

    def may_lock(self, size: int) -> bool:
        """Whether RLIMIT_MEMLOCK lets one process of the user have `size` bytes pinned."""
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return self.is_root or limit == resource.RLIM_INFINITY or size <= limit

    def run(self, devices: Sequence[str], command: Sequence[str], *options: str) -> list[str]:
        """`iommud run` with the devices."""
        given = [word for device in devices for word in ("--device", device)]
        return [*self.before, IOMMUD, "run", *options, *given, "--", *command]


def users(*opened: str) -> Iterator[User]:
    """`opened`: options of as_nobody.py that let the user nobody into more than the checkout."""
    yield User("root" if os.geteuid() == 0 else "user", [])
    if os.geteuid() == 0:
        yield User("nobody", [*AS_NOBODY, *opened])
