"""True pins, where the machine has io_uring: what is pinned is held whatever its client does, and shows in the client's VmPin and VmLck.

What a request pins and lets go is only noted while it is carried out (`count`, `hold`). When its answer is known it is made true
(`settle`), and then the client gets it. Three things are needed of the client itself: that it registers its memory in a ring (a `Store`),
a ring in which we can count (a `Counter`, once), and a mapping that counts as locked. So a thread of the client is made to call the
kernel (hand.py): the one that waits for the answer if it is a thread of the address space in question, else any. All else, letting go
above all, is done from outside.

What does not succeed (a debugger has the client, io_uring is forbidden to it) leaves the request as it is: memory is watched (pin.py),
with a line in the log for each address space.
"""

import errno
import functools
import logging
import math
import os
import resource
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from . import uring
from .account import Account, new_counter, pages_of, show_locked, store
from .caller import CAP_IPC_LOCK, Caller
from .hand import Hand, Unwilling, take_caller, take_somebody
from .inline import leave
from .mount import Unusable
from .origin import Mm
from .pin import InProcess, Mapped, Piece, let_go
from .pin_counter import Counter
from .ptrace import Gone, Machine, machine
from .seize import is_killed
from .session import reply_taker

log: Final = logging.getLogger("cuse_glue.true_pin")

ELSEWHERE: Final = 1.0  # seconds for which the answer waits for what is to change in other processes
MOMENT: Final = 0.01  # seconds between looks whether somebody waits for a thread that waits for him
CLOSING: Final = 2.0  # seconds for which clients that are in our hands when the device goes are waited for
LOOK: Final = 0.1  # seconds between looks whether a client is being killed that we wait for
FEW: Final = 256 << 10  # bytes that are pinned here at once, and more in a worker thread
MANY: Final = 16384  # pages from which counting takes so long that it is done in a worker thread

NO_ROOM: Final = "--pin=uring cannot pin a page: RLIMIT_MEMLOCK leaves no room for it, and has to be raised"


def check() -> tuple[Machine, bool]:
    """The machine, if it can make true pins, and whether its kernel counts in VmPin what a thread with our capabilities has registered.

    (Newer ones do not, if that has CAP_IPC_LOCK.) Unusable: it cannot.
    """
    found = machine()
    if found is None:
        raise Unusable("--pin=uring does not know this kind of machine")
    _raise_limit()
    try:
        fd, _ = uring.setup(1)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unusable("--pin=uring needs io_uring, which this kernel does not have") from None
        if error.errno == errno.ENOMEM:
            raise Unusable(NO_ROOM) from None
        why = "the sysctl kernel.io_uring_disabled, or a seccomp filter, forbids it" if error.errno == errno.EPERM else error.strerror
        raise Unusable(f"--pin=uring needs io_uring, and cannot have it: {why}") from None
    try:
        counter = Counter(fd)
    except OSError as error:
        os.close(fd)
        raise Unusable(f"--pin=uring needs io_uring's registered buffers (Linux 5.13): {error.strerror}") from None
    before = _own_vm_pin()
    try:
        counter.show(1)
        counts = _own_vm_pin() != before
        counter.show(0)
    except OSError as error:
        raise Unusable(NO_ROOM if error.errno == errno.ENOMEM else f"--pin=uring cannot pin a page: {error.strerror}") from None
    finally:
        counter.close()
    return found, counts


def _own_vm_pin() -> int:
    with open("/proc/self/status", "rb") as file:
        return pages_of(file.read())


def _raise_limit() -> None:
    """Pins of clients without CAP_IPC_LOCK are held against *our* limit when we count them."""
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (resource.RLIM_INFINITY, most):
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return
        except (ValueError, PermissionError):
            pass


class TruePins:
    """All of one device's. For the loop's thread."""

    def __init__(self, address_space: Callable[[Caller], Mm], harmless_filters: int | None = None) -> None:
        """`address_space`: whose a caller is; OSError. Unusable: the machine cannot do it."""
        self._machine, self._counts_all = check()
        self._address_space = address_space
        self._harmless_filters = harmless_filters
        self._unsettled: dict[Mm, Account] = {}  # held
        self._working: dict[Mm, trio.Event] = {}
        self._here: list[Mapped] = []  # to be held, of files that are mapped here
        self._shelf = uring.Shelf()
        self._shelf_lock = trio.Lock()
        self._hands = 0  # under `_no_hands`
        self._no_hands = threading.Condition()

    def count(self, mm: Mm, pinned: int, locked: int) -> None:
        """So many pages more (or fewer) are pinned of what `mm` pays for, and so many of them count as locked."""
        account = self._account(mm)
        account.pinned += pinned
        account.locked += locked
        account.changes += 1

    def hold(self, mm: Mm, pieces: Sequence[Piece]) -> None:
        """These are to be held for as long as they are open, from the moment on in which the request is settled."""
        for piece in pieces:
            if isinstance(piece, Mapped):
                if piece.writable:
                    self._here.append(piece)
                continue
            account = self._account(mm)
            account.wanted.append(piece)
            account.changes += 1

    def _account(self, mm: Mm) -> Account:
        if mm.account is None:
            mm.account = Account()
        account: Account = mm.account
        if mm not in self._unsettled:
            mm.hold()
            self._unsettled[mm] = account
        return account

    async def settle(self, caller: Caller, result: int) -> int:
        """To be awaited last in a request, with its result: make true what it noted. The reply is sent here, or by returning the result."""
        if self._here:
            await self._hold_here()
        if self._unsettled:
            self._flush()
        if not self._unsettled:
            return result
        await leave()
        try:
            own = self._address_space(caller)
        except OSError:
            own = None
        if own not in self._unsettled:
            own = None
        waiting = [self._begin(mm) for mm in list(self._unsettled) if mm is not own]
        with trio.move_on_after(ELSEWHERE):
            for event in waiting:
                await event.wait()
        if own is None or own not in self._unsettled:
            return result
        own.hold()
        try:
            with trio.move_on_after(ELSEWHERE) as patience:
                while own in self._working:
                    if own.account.waiting_for == caller.tid:
                        return result  # it will be caught just before it sees this, and then all that has changed is done
                    with trio.move_on_after(MOMENT):
                        await self._working[own].wait()
                await own.account.lock.acquire()
            if patience.cancelled_caught:
                self._begin(own)
                return result
            try:
                if own not in self._unsettled:
                    return result
                reply = reply_taker.get()()
                if reply is None:  # it has been answered, and gone its way
                    self._begin(own)
                else:
                    await self._with_caller(own, caller, lambda: reply(result))
            finally:
                own.account.lock.release()
        finally:
            own.drop()
        return result

    async def _hold_here(self) -> None:
        """Files are mapped here: no client is needed."""
        wanted, self._here = [piece for piece in self._here if piece.is_open], []
        if sum(piece.length for piece in wanted) <= FEW and not self._shelf_lock.locked():
            self._shelve(wanted)
            return
        await leave()
        async with self._shelf_lock:
            await trio.to_thread.run_sync(self._shelve, [piece for piece in wanted if piece.is_open])
        for piece in wanted:
            if not piece.is_open:
                let_go(piece)

    def _shelve(self, wanted: Sequence[Mapped]) -> None:
        for piece in wanted:
            try:
                piece.held = self._shelf.hold(piece.address, piece.length)
            except OSError as failure:
                log.debug("%d bytes of a file are not held: %s", piece.length, failure)

    def released(self) -> None:
        """Outside of any ioctl something may have been let go: make that true, soon."""
        self._flush()
        for mm in list(self._unsettled):
            self._begin(mm)

    async def quiet(self) -> None:
        """Wait until nobody works at it; for tests."""
        while self._here:
            await self._hold_here()
        for event in list(self._working.values()):
            await event.wait()

    def close(self) -> None:
        """The device is gone. A client must not be let go half way through a call that is none of its own."""
        with self._no_hands:
            self._no_hands.wait_for(lambda: not self._hands, CLOSING)
        for mm in list(self._unsettled):
            last = threading.Thread(target=self._work_at_last, args=(mm,), daemon=True)
            last.start()
            last.join(ELSEWHERE)
            if not last.is_alive():
                self._forget(mm)
        self._shelf.close()

    def _work_at_last(self, mm: Mm) -> None:
        try:
            self._work(mm, [], functools.partial(take_somebody, mm, self._machine, self._harmless_filters))
        except (Unwilling, Gone, OSError) as failure:
            log.debug("%r keeps its mapping: %s", mm, failure)

    def _flush(self) -> None:
        """What can be done at once, and from outside."""
        for mm, account in list(self._unsettled.items()):
            if account.lock.locked():
                continue
            account.wanted = deque(piece for piece in account.wanted if piece.is_open)
            if not account.wanted and account.counter is not None and account.behind < MANY:
                try:
                    account.show()
                except OSError as failure:
                    self._complain(mm, failure)
                    self._forget(mm)
                    continue
            if account.settled or not mm.alive():
                self._forget(mm)

    def _forget(self, mm: Mm) -> None:
        if self._unsettled.pop(mm, None) is not None:
            mm.drop()

    def _complain(self, mm: Mm, failure: Exception) -> None:
        account: Account = mm.account
        account.complain(f"what process {mm.pid} has pinned is not held, or does not show in its VmPin and VmLck: {failure}", True)

    def _begin(self, mm: Mm) -> trio.Event:
        """Settle it by whatever thread of it; the event tells when that has ended."""
        if mm in self._working:
            return self._working[mm]
        done = self._working[mm] = trio.Event()

        async def work() -> None:
            account: Account = mm.account
            try:
                async with account.lock:
                    while mm in self._unsettled:
                        await self._run(mm, lambda: take_somebody(mm, self._machine, self._harmless_filters))
            finally:
                del self._working[mm]
                done.set()
                mm.drop()

        mm.hold()
        trio.lowlevel.spawn_system_task(work)
        return done

    async def _with_caller(self, mm: Mm, caller: Caller, reply: Callable[[], object]) -> None:
        """By the thread that waits for the reply, which is sent whatever happens."""
        answered = False

        def answer() -> None:
            nonlocal answered
            if not answered:
                answered = True
                reply()

        async def see_to_the_killed() -> None:
            # To seize a thread waits while another thread of its process is in exec; which waits, after a kill, for this one to die.
            while not answered:
                await trio.sleep(LOOK)
                if is_killed(caller.tid):
                    answer()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(see_to_the_killed)
                await self._run(mm, lambda: take_caller(mm, caller.tid, self._machine, lambda: answered, answer, self._harmless_filters))
                nursery.cancel_scope.cancel()
        finally:
            answer()

    async def _run(self, mm: Mm, take: Callable[[], Hand]) -> None:
        account: Account = mm.account
        changes = account.changes
        wanted: list[InProcess] = []
        try:
            await trio.to_thread.run_sync(self._work, mm, wanted, take, abandon_on_cancel=True, limiter=trio.CapacityLimiter(math.inf))
        except Gone:
            log.debug("process %d is gone", mm.pid)
        except (Unwilling, OSError) as failure:
            self._complain(mm, failure)
        except Exception:
            log.exception("bug: true pins of %r", mm)
        for piece in wanted:
            if not piece.is_open and piece.held is not None:  # while it was being held
                let_go(piece)
        if account.changes == changes or account.settled:  # else whoever changed it waits for its turn
            self._forget(mm)

    # --- in a worker thread ---

    def _work(self, mm: Mm, wanted: list[InProcess], take: Callable[[], Hand]) -> None:
        """`wanted`: what was to be held goes there."""
        account: Account = mm.account
        if not account.wanted and (account.counter is not None or not account.behind) and account.locked_shown == max(account.locked, 0):
            account.show()
            return
        with self._counted(), take() as hand, hand.unlimited():  # which sees nothing of it before all is there
            wanted += account.take_wanted()
            try:
                if wanted or (account.behind and account.counter is None):
                    with hand.helper() as helper:
                        self._make_rings(mm, helper, wanted)
            finally:
                if account.locked_shown != max(account.locked, 0):
                    show_locked(mm, hand, max(account.locked, 0))
                account.show()


    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._no_hands:
            self._hands += 1
        try:
            yield
        finally:
            with self._no_hands:
                self._hands -= 1
                self._no_hands.notify_all()

    def _make_rings(self, mm: Mm, hand: Hand, wanted: Sequence[InProcess]) -> None:
        account: Account = mm.account
        try:
            if wanted:
                store(mm, hand, wanted)
        finally:
            if account.behind and account.counter is None:
                if not self._counts_all:
                    hand.give_up(CAP_IPC_LOCK)
                account.counter = new_counter(hand)
