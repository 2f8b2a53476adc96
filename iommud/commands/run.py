"""`iommud run`: one program gets a /dev/iommu of its own.

The process that the user started *becomes* the program (exec). So its pid, exit status, signals,
terminal and job control are right by nature, and nothing has to be passed on. The daemon is forked
off before that, twice, into a session of its own. So the program never sees it as a child, and the
terminal's signals do not reach it. The daemon stays in the mount namespace in which it was born,
and holds nothing of the private one. So when the last process of the private namespace has ended,
however it died, the FUSE connection ends, and then the daemon. If the daemon dies first, the
program gets ENOTCONN, and the namespace still ends with the program.

    user's process  fork ─┬─ unshare, mount ── Handover ──▶┐ ┌─▶ exec the program
    daemon                └─ import the engine ··· serve ──┴─┘ "ready" (INIT is answered)
    watcher                  └─ fork of the daemon ···· its system calls' listener ─▶ answer them

A few system calls on the device never reach a FUSE server. If the kernel allows it, a seccomp
filter lets a third process answer them (cuse_glue/watch/watcher.py). That process outlives the
daemon if necessary.
"""

import errno
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from cuse_glue.errors import Unusable

from ..doors import doors
from ..ops.giving import picked
from ..settings import Settings
from ..text import escape
from . import limits, stderr
from .handover import Handover, Listening
from .limits import allow_many_files

if TYPE_CHECKING:
    from cuse_glue.mounts.sysfs import Staged
    from cuse_glue.watch.watcher import Watcher


log: Final = logging.getLogger("iommud.commands.run")

FAILED: Final = 125  # exit statuses, as env(1), timeout(1) and the shells have them
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
DIRECTORY: Final = "/dev"
MOST: Final = 1 << 18  # bytes of what the daemon says when it is ready


def run(command: list[str], settings: Settings) -> NoReturn:
    """Become `command`, which sees a private /dev/iommu. If that fails, end the process with a
    sentence on stderr.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        limits.check(limits.LEAST_OF_RUN)
    except Unusable as error:
        _fail(FAILED, str(error))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _fork_daemon(theirs, settings)
    theirs.close()
    paths, staged = _give_devices(ours, settings)
    try:
        message = ours.recv(MOST)
        is_ready = bool(message)
        # Until the kernel has asked who owns a file, it assumes root. In a user namespace without a
        # name for root it would let nobody write.
        for path in paths:
            os.stat(path)
    except OSError:
        is_ready = False
    if not is_ready:
        _fail(FAILED, "the daemon ended before it was ready")
    if staged is not None:
        _show(staged, message)
    _become(command)


def _show(staged: "Staged", steps: bytes) -> None:
    """Show the devices in /sys."""
    from .sys_plan import unpack

    try:
        staged.show(unpack(steps))
    except OSError as error:
        _fail(FAILED, f"a private /sys with the devices cannot be made: {error.filename or '/sys'}: {error.strerror}")


def _give_devices(daemon: socket.socket, settings: Settings) -> "tuple[list[str], Staged | None]":
    """Make the files, mount on them, and send the daemon the connections. Returns the paths, and
    what is still to be shown in /sys.
    """
    from cuse_glue.mounts import mount, namespace, reach
    from cuse_glue.system import libc, seccomp

    from . import machine

    try:
        reach.check()
        namespace.enter()
        paths, connections = [], []
        first = machine.first_group() if settings.devices else 0
        for door in doors(settings, first):
            *parents, name = door.name.split("/")
            directory = DIRECTORY
            for parent in parents:
                directory = namespace.add_directory(directory, parent)
            paths.append(namespace.add_file(directory, name))
            # Opened in the new namespace: the kernel mounts a connection only where it was opened.
            connections.append(mount.open_fuse())
            mount.mount_fuse(connections[-1], paths[-1], name="iommud", mode=door.mode)
        staged, tree = None, None
        if settings.devices and os.path.isdir("/sys"):  # a chroot may lack it
            from cuse_glue.mounts.sysfs import Staged

            tree = mount.open_fuse()
            staged = Staged(tree, "iommud")
        # asked before the filter is there, which may make such calls wait for the watcher
        devices = [libc.identity(path)[0] for path in paths]
        listening, unwatched = None, ""
        if settings.watch:
            try:
                installed = seccomp.install(
                    picked(mock=settings.mock, devices=bool(settings.devices)), stats=settings.chardev
                )
                user_namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
                listening = Listening(installed.listener, user_namespace, installed.ioctls)
            except Unusable as reason:
                if settings.chardev:
                    raise Unusable(f"--chardev takes a seccomp filter with a listener, and {reason}") from None
                unwatched = str(reason)
        Handover(os.pidfd_open(os.getpid()), connections, devices, tree, listening, unwatched, first).send(daemon)
        return paths, staged
    except Unusable as error:
        _fail(FAILED, str(error))
    except BrokenPipeError:
        _fail(FAILED, "the daemon ended before it was ready")
    except OSError as error:
        _fail(
            FAILED,
            f"a private {DIRECTORY} with its devices cannot be made: {error.filename or DIRECTORY}: {error.strerror}",
        )


def _become(command: list[str]) -> NoReturn:
    from cuse_glue.system import libc

    # the environment as we found it: Python may have added LC_CTYPE to its copy
    with open("/proc/self/environ", "rb") as file:
        environment = file.read().split(b"\0")[:-1]
    # Python ignores these two signals from its start. Whether the caller ignored them cannot be
    # known any more; nearly nobody does.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        libc.execute([os.fsencode(word) for word in command], environment)
    except OSError as error:
        _fail(
            NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE,
            f"{command[0]} cannot be run: {error.strerror}",
        )
    raise AssertionError("execvpe came back")


def _fail(status: int, sentence: str) -> NoReturn:
    try:
        os.write(2, f"iommud: {escape(sentence)}\n".encode())
    except OSError:
        pass  # nobody listens
    sys.exit(status)


def _fork_daemon(link: socket.socket, settings: Settings) -> None:
    pending = signal.sigpending()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            _daemon(link, settings)
        os._exit(0)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # SIGCHLD was ignored when we were started, and still is
    if signal.SIGCHLD not in pending:
        # if SIGCHLD is blocked, that of our child would stay pending for the program
        signal.sigtimedwait([signal.SIGCHLD], 0)


def _daemon(link: socket.socket, settings: Settings) -> NoReturn:
    status = 1
    try:
        connection = _detach(link)
        stderr.configure(settings.log_level)
        watcher = _fork_watcher() if settings.watch else None
        # The engine is imported while the program's process makes the files.
        from .run_daemon import serve

        status = 0 if serve(connection, settings, watcher) else FAILED
    except Unusable as error:
        stderr.write_line(f"iommud: {error}")
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            stderr.write_line(f"iommud: {limit} open files (ulimit -n) are too few for it")
        else:
            log.exception("the daemon failed")
    finally:
        os._exit(status)


def _detach(link: socket.socket) -> socket.socket:
    """Keep nothing of the user's process but stderr and the link. Returns the link, under a number
    other than 0, 1 and 2.
    """
    from cuse_glue.system import detach

    connection = socket.socket(fileno=fcntl.fcntl(link.detach(), fcntl.F_DUPFD_CLOEXEC, 3))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        os.fstat(2)
    except OSError:
        os.dup2(null, 2)
    detach.close_all_but(connection.fileno())
    os.chdir("/")
    os.umask(0o077)
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    allow_many_files()
    return connection


def _fork_watcher() -> "Watcher":
    """Fork the watcher before anything heavy is imported, because it would keep that memory."""
    from cuse_glue.watch.watcher import Watcher

    return Watcher("iommud-watch")
