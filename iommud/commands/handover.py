"""What the process that mounts tells the daemon of `iommud run`: one message, with descriptors."""

import errno
import json
import os
import socket
from dataclasses import dataclass
from typing import Final

_MOST: Final = 1 << 16  # bytes of a message
_MOST_DESCRIPTORS: Final = 250  # the kernel takes 253


@dataclass(frozen=True, slots=True)
class Listening:
    """The watcher's part: the `listener` of the seccomp filter, the program's user namespace, and
    whether ioctls are picked too.
    """

    listener: int
    user_namespace: int
    ioctls: bool


@dataclass(frozen=True, slots=True)
class Handover:
    """`program`: a pidfd. `connections`: of /dev/fuse, one for each door, in their order;
    `devices`: the st_dev of each.

    `tree`: one more connection, for what is shown in /sys; None: nothing is shown. `first_group`:
    from this number on the machine has no IOMMU groups.
    `listening`: None if system calls are not watched. `unwatched`: a sentence that says why they
    are not, if they should be.
    """

    program: int
    connections: list[int]
    devices: list[int]
    tree: int | None = None
    listening: Listening | None = None
    unwatched: str = ""
    first_group: int = 0

    def send(self, link: socket.socket) -> None:
        """Send it, and close the descriptors on this side. OSError."""
        descriptors = [self.program, *self.connections]
        facts: dict[str, object] = {"devices": self.devices, "unwatched": self.unwatched, "ioctls": None}
        facts["tree"], facts["first_group"] = self.tree is not None, self.first_group
        if self.tree is not None:
            descriptors.append(self.tree)
        if self.listening is not None:
            descriptors += [self.listening.listener, self.listening.user_namespace]
            facts["ioctls"] = self.listening.ioctls
        socket.send_fds(link, [json.dumps(facts).encode()], descriptors)
        for fd in descriptors:
            os.close(fd)

    @classmethod
    def receive(cls, link: socket.socket) -> "Handover | None":
        """None: the other side has ended, and has said why. OSError(EMFILE): there is no room for
        the descriptors.
        """
        message, descriptors, flags, _ = socket.recv_fds(link, _MOST, _MOST_DESCRIPTORS)
        if not message:
            return None
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        facts = json.loads(message)
        program, *rest = descriptors
        listening = None
        if facts["ioctls"] is not None:
            listener, user_namespace = rest[-2:]
            rest = rest[:-2]
            listening = Listening(listener, user_namespace, facts["ioctls"])
        tree = rest.pop() if facts["tree"] else None
        return cls(program, rest, facts["devices"], tree, listening, facts["unwatched"], facts["first_group"])
