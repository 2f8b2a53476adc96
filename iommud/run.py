"""`iommud run`: one program gets a /dev/iommu of its own.

The process that the user started *becomes* the program (exec), so its pid, exit status, signals, terminal and job
control are right by nature, and nothing has to be passed on. The daemon is forked off before that, twice, into a
session of its own: the program never sees it as a child, and the terminal's signals do not reach it. It stays in the
mount namespace that it was born in and holds nothing of the private one. So its FUSE connection ends with the last
process of the private namespace, however that died, and the daemon with it. If the daemon dies first, the program
gets ENOTCONN, and its namespace goes with it.

    user's process   fork ─┬─ unshare, open /dev/fuse, mount ── fuse fd, own pidfd ──▶┐  ┌─▶ exec the program
    daemon                 └─ import the engine ······················ recv ── serve ─┴──┘ "ready" (INIT is answered)
    watcher                   └─ fork of the daemon ···· its system calls' listener ─▶ answer them

A few system calls on the device never reach a FUSE server. Where it can be had, a seccomp filter lets a third process answer them
(cuse_glue/watch.py), which outlives the daemon if need be.
"""

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import stderr
from .limits import allow_many_files

if TYPE_CHECKING:
    from cuse_glue.watch import Watcher

    from .cli import Settings

log: Final = logging.getLogger("iommud.run")

FAILED: Final = 125  # exit statuses, as env(1), timeout(1) and the shells have them
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
LAST_WORDS: Final = 1.0  # seconds in which the log of a connection that ends with its program can still be written
NAME: Final = "iommu"
DIRECTORY: Final = "/dev"
MODE: Final = 0o660  # what the kernel gives /dev/iommu
VFIO: Final = "vfio"  # of the directory, and of the file in it
VFIO_MODE: Final = 0o666


def run(command: list[str], settings: "Settings") -> NoReturn:
    """Become `command`, which sees a private /dev/iommu. Ends the process, if only with a sentence on stderr."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _fork_daemon(theirs, settings)
    theirs.close()
    paths = _give_devices(ours, settings)
    try:
        is_ready = bool(ours.recv(1))
        # Until the kernel has asked for the owner it takes root for it, and where root has no name it lets nobody write.
        for path in paths:
            os.stat(path)
    except OSError:
        is_ready = False
    if not is_ready:
        _fail(FAILED, "the daemon ended before it was ready")
    _become(command)


def _give_devices(daemon: socket.socket, settings: "Settings") -> list[str]:
    """Make the files, mount on them, and send the daemon the connections. Returns the paths."""
    from cuse_glue import libc, mount, namespace, reach, seccomp

    try:
        reach.check()
        namespace.enter()
        paths = [namespace.add_file(DIRECTORY, NAME)]
        if settings.vfio:
            paths.append(namespace.add_file(namespace.add_directory(DIRECTORY, VFIO), VFIO))
        # In the new namespace: the kernel wants the one who mounts a connection to have opened it there.
        connections = [mount.open_fuse() for _ in paths]
        for fuse, path, mode in zip(connections, paths, (MODE, VFIO_MODE), strict=False):
            mount.mount_fuse(fuse, path, name="iommud", mode=mode)
        descriptors = [os.pidfd_open(os.getpid()), *connections]
        message: dict[str, Any] = {"devices": [libc.identity(path)[0] for path in paths]}
        if settings.watch:
            try:
                descriptors += [seccomp.install(), os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)]
            except seccomp.Unavailable as reason:
                message["unwatched"] = str(reason)
        socket.send_fds(daemon, [json.dumps(message).encode()], descriptors)
        for fd in descriptors:
            os.close(fd)
        return paths
    except mount.Unusable as error:
        _fail(FAILED, str(error))
    except BrokenPipeError:
        _fail(FAILED, "the daemon ended before it was ready")
    except OSError as error:
        _fail(FAILED, f"a private {DIRECTORY} with its devices cannot be made: {error}")


def _become(command: list[str]) -> NoReturn:
    from cuse_glue import libc

    with open("/proc/self/environ", "rb") as file:  # as it was found: Python may have put LC_CTYPE into its own
        environment = file.read().split(b"\0")[:-1]
    # Python ignores these two from its start. Whether the caller had is not to be known any more; nearly nobody does.
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
    print(f"iommud: {sentence}", file=sys.stderr)
    sys.exit(status)


def _fork_daemon(link: socket.socket, settings: "Settings") -> None:
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
        signal.sigtimedwait([signal.SIGCHLD], 0)  # if it was blocked, ours would wait for the program


def _daemon(link: socket.socket, settings: "Settings") -> NoReturn:
    from cuse_glue.mount import Unusable

    status = 1
    try:
        connection = _detach(link)
        stderr.configure(settings.log_level)
        watcher = _fork_watcher() if settings.watch else None
        status = _serve(connection, settings, watcher)
    except Unusable as error:
        stderr.write_line(f"iommud: {error}")
    except BaseException:
        log.exception("the daemon failed")
    finally:
        os._exit(status)


def _detach(link: socket.socket) -> socket.socket:
    """Keep nothing of the user's process but stderr and the link; returns the link, out of the way of 0, 1 and 2."""
    from cuse_glue import detach

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
    """Before anything heavy is imported, which it would keep."""
    from cuse_glue.watch import Watcher

    return Watcher("iommud-watch")


def _serve(connection: socket.socket, settings: "Settings", watcher: "Watcher | None") -> int:
    import trio

    from cuse_glue.node import Attributes
    from cuse_glue.session import Session, serve_together

    from .ops.files import IommuDevice, Options, VfioContainer, calm_collector
    from .ops.refusals import Refusals

    message, descriptors, _, _ = socket.recv_fds(connection, 4096, 5)
    if not message:
        return FAILED  # the other side has said why
    what = json.loads(message)
    pidfd, fuse, *others = descriptors
    vfio, watch = others[: len(what["devices"]) - 1], others[len(what["devices"]) - 1 :]
    why = stderr.write_line if settings.why else None
    device = IommuDevice(Options(mock=settings.mock, iommu=settings.iommu, why=why, watched=bool(watch), pin=settings.pin))
    watched = None
    if watcher is not None and watch:
        listener, user_namespace = watch
        watcher.watch(listener, user_namespace, what["devices"])
        watched = Refusals(watcher.pid, device.host, why)
    elif watcher is not None:
        watcher.dismiss()
        log.info("system calls are not watched: %s", what["unwatched"])
    owner = os.geteuid(), os.getegid()
    sessions = [Session(fuse, device, Attributes(MODE, *owner), mapped=device.mapped, watched=watched)]
    sessions += [Session(fd, VfioContainer(device), Attributes(VFIO_MODE, *owner), watched=watched) for fd in vfio]

    def ready() -> None:
        with connection:
            try:
                connection.send(b"r")
            except BrokenPipeError:
                pass  # killed while it waited; its namespace goes, and so do we

    async def hang_up() -> None:
        """Let go of the user's stderr when the program ends, even if something that it started lives on."""
        await trio.lowlevel.wait_readable(pidfd)
        await trio.sleep(LAST_WORDS)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    async def stop() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                sessions[0].close()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            nursery.start_soon(stop)
            await serve_together(sessions, ready)
            nursery.cancel_scope.cancel()
        device.shutdown()

    calm_collector()
    trio.run(main)
    return 0
