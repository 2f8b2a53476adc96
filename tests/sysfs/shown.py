"""`shown.py [--sys DIRECTORY] COMMAND...`: run a command that sees the device of bus.py in /sys."""

import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import trio

from cuse_glue.fuse.session import Session
from cuse_glue.fuse.tree_node import TreeNode
from cuse_glue.mounts import mount, namespace
from cuse_glue.mounts.sysfs import Staged
from cuse_glue.system.detach import close_all_but
from cuse_glue.tree.entries import Directory
from cuse_glue.tree.merge import merge
from tests.sysfs.bus import Bus


def serve(link: socket.socket, root: Directory) -> None:
    """In a process that is not in the namespace of those it serves."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in 0, 1, 2:
        os.dup2(null, number)
    close_all_but(link.fileno())
    _, (fd,), _, _ = socket.recv_fds(link, 1, 1)
    session = Session(fd, TreeNode(root, os.geteuid(), os.getegid()))
    trio.run(session.serve, link.close)


def main() -> None:
    """Become the command."""
    command, directory = sys.argv[1:], "/sys"
    if command[0] == "--sys":
        directory, command = command[1], command[2:]
    merged = merge(Bus().tree(), directory)
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        if not os.fork():
            serve(theirs, merged.root)
        os._exit(0)
    theirs.close()
    os.wait()
    namespace.enter()
    fd = mount.open_fuse()
    staged = Staged(fd, "iommud-test", directory)
    socket.send_fds(ours, [b"."], [fd])
    os.close(fd)
    ours.recv(1)
    staged.show(merged.steps)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
