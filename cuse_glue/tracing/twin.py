"""A process under our control that a client's thread was made to make, and that shares memory and
descriptors with the client.

It is a process and no thread. So what it does to its limits and capabilities concerns it alone, and
it can be killed alone. What the kernel remembers of a thread (which rings it made, whom to tell of
their end) goes with it. As long as it lives it is stopped, or in a call of ours; if we die, it
dies. Nobody is told of its end, and its parent's waits do not see it unless they ask for clones
(__WALL). Afterwards its parent is made to wait for it, so that nothing is left of it.

Ref: ptrace(2) PTRACE_O_EXITKILL, v7.3 kernel/exit.c eligible_child
"""

import os
from typing import Final

from ..errors import ThreadGone
from .ptrace import CONT, SETOPTIONS, WALL, Tracee

_TRACECLONE: Final = 1 << 3  # PTRACE_O_*
_EXITKILL: Final = 1 << 20
# CLONE_VM, _FS, _FILES, _SYSVSEM; and no signal at its end
_SHARING: Final = 0x100 | 0x200 | 0x400 | 0x40000
_NO_STACK: Final = 16  # an address where nothing is; a multiple of what any machine wants


class Twin(Tracee):
    """Use `call` as often as needed, then `end`. ThreadGone: somebody has killed it."""

    def __init__(self, parent: Tracee) -> None:
        """`parent`: a thread that is ready; it makes the twin, and is at rest afterwards.
        OSError(EAGAIN): no process can be made. ThreadGone: the twin, or the thread, is gone.
        """
        self._parent = parent
        # its number for its parent, which may live in another PID namespace than we
        self._number = 0
        parent._cloned = 0
        try:
            parent._ptrace(SETOPTIONS, 0, parent._options | _TRACECLONE)
            # If we are killed just now, before it is certain to die with us, it runs on with this
            # stack, and dies of it.
            self._number = parent.call(parent.machine.clone, _SHARING, _NO_STACK, 0, 0, 0)
            # This comes first of all: if we are killed before it, the parent goes on with the
            # result of a call that it has not made.
            parent.rest()
            parent._ptrace(SETOPTIONS, 0, parent._options)
        except ThreadGone:
            if parent._cloned:
                self._take()
                self.end()
            raise
        if self._number < 0:
            raise OSError(-self._number, os.strerror(-self._number))
        try:
            self._take()
        except ThreadGone:
            self.end()
            raise

    def _take(self) -> None:
        self._begin(self._parent._cloned, self._parent.machine, self._parent.memory, self._parent._options | _EXITKILL)
        self._ready = self._parent._ready
        self.wait_stop()
        self._ptrace(SETOPTIONS, 0, self._options)

    def end(self) -> None:
        """End the twin. Nothing is left of it."""
        registers = self._ready.copy()
        registers[self.machine.arguments[0]] = 0
        registers[self.machine.number] = self.machine.exit
        try:
            self._write_registers(registers)
            self._ptrace(CONT, 0, 0)
            while True:
                self._ptrace(CONT, 0, self._passed_on(os.WSTOPSIG(self._wait())))
        except ThreadGone:
            pass
        try:
            self._parent.resume()
            self._parent.call(self.machine.wait4, self._number, 0, WALL | os.WNOHANG, 0)
            self._parent.rest()
        except ThreadGone:
            pass

    def _passed_on(self, number: int) -> int:
        return 0  # its parent would be told if it were stopped by a signal
