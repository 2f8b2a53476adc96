"""The watcher's threads. One of them leads: it listens, and handles what can be done at once.
Before it does something that may last it steps aside, and another one leads.

So a call that takes long (its struct is in memory that somebody makes slow) delays no other. Nearly
all calls are short, and for these no thread has to wake another.
"""

import errno
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Final

from ..system import seccomp

MOST: Final = 1024  # threads; each that is busy has a client's thread waiting for it
STACK: Final = 256 * 1024  # bytes
# milliseconds between looks whether the clients whose calls take long still wait
LOOK: Final = 100


class Crew:
    """Answers a listener."""

    def __init__(self, listener: int, see_to: Callable[[seccomp.Notification, Callable[[], None]], None]) -> None:
        """`see_to(notification, step_aside)` runs in any thread, and ends the call or lets it go
        on. Before it may have to wait it calls `step_aside`. If the client is killed, system calls
        in which it waits are interrupted (EINTR).
        """
        self._listener = listener
        self._see_to = see_to
        self._lead = threading.Lock()
        self._count = threading.Lock()
        self._members = 0
        self._idle = 0  # of them wait for the lead
        self._busy: dict[int, seccomp.Notification] = {}  # by thread

    def work(self) -> None:
        """Answer calls. Ends the process when nobody is left who could make one."""
        threading.stack_size(STACK)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        self._members = self._idle = 1
        self._take_turns()

    def _take_turns(self) -> None:
        while True:
            self._lead.acquire()
            with self._count:
                self._idle -= 1
            try:
                while self._serve_one(self._listen()):
                    pass
            except BaseException:
                # a bug, and nobody else can lead: the clients' calls fail, and do not wait for ever
                os._exit(1)
            with self._count:
                self._idle += 1

    def _serve_one(self, notification: seccomp.Notification) -> bool:
        """Serve one call. Returns whether this thread still leads."""
        leads = True
        me = threading.get_ident()

        def step_aside() -> None:
            nonlocal leads
            if leads:
                leads = False
                self._busy[me] = notification
                with self._count:
                    hire = not self._idle and self._members < MOST
                    self._members += hire
                    self._idle += hire
                self._lead.release()
                if hire:
                    self._hire()

        try:
            self._see_to(notification, step_aside)
        except BaseException:
            seccomp.answer(self._listener, notification, errno.EIO)
        finally:
            self._busy.pop(me, None)
        return leads

    def _hire(self) -> None:
        try:
            threading.Thread(target=self._take_turns, daemon=True).start()
        except RuntimeError:  # none is to be had: then others wait until somebody has finished
            with self._count:
                self._members -= 1
                self._idle -= 1

    def _listen(self) -> seccomp.Notification:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while True:
            for _, events in poll.poll(LOOK if self._busy else None):
                if not events & select.POLLIN:
                    os._exit(0)
                notification = seccomp.receive(self._listener)
                if notification is not None:
                    return notification
            for thread, served in list(self._busy.items()):
                if not seccomp.is_waiting(self._listener, served):
                    signal.pthread_kill(thread, signal.SIGUSR1)
