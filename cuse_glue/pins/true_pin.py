"""True pins, on machines with io_uring: what is pinned stays, whatever its client does, and shows
in the client's VmPin and VmLck.

While a request is carried out, we only note what it pins and unpins (`count`, `pin`). When its
answer is known, we make the notes true (`settle`), and then the client gets the answer. Three
things must be done by the client itself: register its memory in a ring (a `BufferRing`), make a
ring in which we can count (a `Counter`, once), and make a mapping that counts as locked. So a
thread of the client is made to call the kernel (catch.py, hand.py). If the thread that waits for
the answer belongs to the address space in question, we use that thread, else any thread of the
address space. Everything else, above all unpinning, is done from outside.

For each address space there is at most one `Run` at a time. It is a thread of ours, which catches a
thread of the address space and makes all its notes true. A request that noted something begins the
runs that it needs, and waits for them:

- For a run for *another* address space the request waits SHORT at most. The threads there may be
  where nobody can stop them (in vfork, waiting for a disk). The run goes on, and ends its work as
  soon as it can. After that, no request waits for that address space, until one of its runs has
  ended in time.
- To a run for *its own* address space the request offers its own thread. The run sends the answer
  when it has told the thread to stop. If the run has already caught another thread of the same
  program, the request waits for the run, OWN at most. If the run waits for just this thread, the
  request sends the answer, and the run does its work before the thread sees the answer.

If a run fails (a debugger has the client, io_uring is forbidden to it), the request keeps its
result: its memory is only watched (pin.py), with one line in the log for each address space.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ..errors import ControlError, ThreadGone
from ..request.address_space import Mm
from ..request.caller import CAP_IPC_LOCK, Caller
from ..request.inline import interruptible, leave
from ..request.reply import reply_taker
from ..tracing.catch import Catch, Offer
from ..tracing.hand import Helper
from ..tracing.seize import is_killed
from . import uring
from .account import Account, new_counter, pin_in_rings, show_locked
from .account import of as account_of
from .can_pin import check
from .pin import InFile, InProcess, Piece, unpin

log: Final = logging.getLogger("cuse_glue.pins.true_pin")

SHORT: Final = 0.08  # seconds that an answer waits for a run for another address space
OWN: Final = 1.0  # seconds that it waits for a run that has another thread of its own program
CLOSING: Final = 0.5  # seconds that we wait for all runs together when the device goes
KILLING: Final = 0.1  # seconds more, for runs that were given up then
MOST: Final = 256  # runs at the same time
LOOK: Final = 0.1  # seconds between looks whether the client that we wait for is being killed
FEW: Final = 256 << 10  # bytes: up to so many are pinned at once, more in a worker thread
MANY: Final = 16384  # pages from which counting takes so long that a run does it


class Run:
    """One attempt for one address space, in a thread of ours. `done`, and the attributes below it,
    belong to the loop's thread.
    """

    def __init__(self, mm: Mm, make_catch: Callable[[Callable[[], None]], Catch]) -> None:
        """`make_catch`: makes the Catch, given what to do when no thread can be stopped."""
        self.mm = mm
        try:
            self._token: trio.lowlevel.TrioToken | None = trio.lowlevel.current_trio_token()
        except RuntimeError:
            self._token = None  # the loop has ended, as in `TruePins.close`
        self.catch = make_catch(lambda: self.tell(self._is_late))
        self.helper: Helper | None = None
        self.wanted: list[InProcess] = []  # what was to be truly pinned
        self.failure: Exception | None = None
        self.ended = threading.Event()
        self.done = trio.Event()
        self.done_or_late = trio.Event()
        self.began = time.monotonic()
        self.changes = account_of(mm).changes

    def tell(self, what: Callable[[], None]) -> None:
        """Have `what` called in the loop's thread, if there is a loop. Any thread."""
        if self._token is not None:
            try:
                self._token.run_sync_soon(what)
            except trio.RunFinishedError:
                pass  # `TruePins.close` ends the run

    def _is_late(self) -> None:
        account_of(self.mm).late = True
        self.done_or_late.set()

    def is_done(self) -> None:
        self.done.set()
        self.done_or_late.set()


class TruePins:
    """All true pins of one device. For the loop's thread."""

    def __init__(self, address_space: Callable[[Caller], Mm], harmless_filters: int | None = None) -> None:
        """`address_space`: returns that of a caller, or raises OSError. Unusable: the machine
        cannot make true pins.
        """
        self._machine, self._counts_all = check()
        self._address_space = address_space
        self._harmless_filters = harmless_filters
        self._unsettled: dict[Mm, Account] = {}  # with a reference to each
        self._runs: dict[Mm, Run] = {}  # likewise
        self._here: list[InFile] = []  # to be truly pinned, of files that are mapped here
        self._own_rings = uring.OwnRings()
        self._own_rings_lock = trio.Lock()
        self._closing = False

    def count(self, mm: Mm, pinned: int, locked: int) -> None:
        """Note that `pinned` pages more (fewer, if negative) are pinned that `mm` pays for, and
        that `locked` of them count as locked.
        """
        account = self._account(mm)
        account.pinned += pinned
        account.locked += locked
        account.changes += 1

    def pin(self, mm: Mm, pieces: Sequence[Piece]) -> None:
        """Pin these truly, from when the request is settled until they are closed."""
        for piece in pieces:
            if isinstance(piece, InFile):
                if piece.writable:
                    self._here.append(piece)
                continue
            account = self._account(mm)
            account.wanted.append(piece)
            account.changes += 1

    def _account(self, mm: Mm) -> Account:
        if mm.account is None:
            mm.account = Account()
        account = account_of(mm)
        if mm not in self._unsettled:
            mm.get()
            self._unsettled[mm] = account
        return account

    async def settle(self, caller: Caller, result: int) -> int:
        """Make true what a request noted. A request awaits this last, with its result. Either this
        sends the reply, or the caller does, with the result that this returns.
        """
        if self._here:
            await self._pin_here()
        if self._unsettled:
            self._flush()
        if not self._unsettled:
            return result
        await leave()
        try:
            own = self._address_space(caller)
        except OSError:
            own = None
        for mm in list(self._unsettled):
            if mm is not own and mm not in self._runs:
                self._begin(mm)
        with trio.move_on_after(SHORT):
            for mm in list(self._unsettled):
                while mm is not own and await self._is_awaited(mm):
                    pass
        if own is not None and own in self._unsettled:
            await self._settle_own(own, caller, result)
        return result

    async def _is_awaited(self, mm: Mm) -> bool:
        """Wait SHORT at most for the run for `mm`. False: do not wait any more, because there is no
        run, or it is late.
        """
        account = account_of(mm)
        run = self._runs.get(mm)
        if run is None or account.late:
            return False
        known = False
        try:
            with trio.move_on_after(SHORT):
                await run.done_or_late.wait()
                known = True
        finally:
            account.late |= not known
        return not account.late

    async def _settle_own(self, own: Mm, caller: Caller, result: int) -> None:
        reply = None
        try:
            while own in self._unsettled:
                run = self._runs.get(own)
                if run is not None and run.catch.waits_for(caller.tid):
                    return
                if reply is None:
                    reply = Reply(result)
                offer = Offer(caller.tid, reply.send)
                if run is None:
                    run = self._begin(own, offer)
                elif not run.catch.offer(offer):
                    with trio.move_on_after(OWN) as patience:
                        await run.done.wait()
                    if patience.cancelled_caught:
                        return
                    continue
                await self._see_through(run, caller, reply)
                if reply.is_sent:
                    return
        finally:
            if reply is not None:
                reply.send()

    async def _see_through(self, run: Run, caller: Caller, reply: "Reply") -> None:
        """Wait for the end of a run that was offered the caller."""
        # we have taken over the reply, so only the end of the session cancels this
        with interruptible():
            while not (reply.is_sent or run.done.is_set()):
                # Seizing a thread can wait for an exec of another thread of its process. That exec
                # waits for the thread to die. So a thread that is being killed gets its reply now.
                with trio.move_on_after(LOOK):
                    await run.done.wait()
                if is_killed(caller.tid):
                    reply.send()
            await run.done.wait()

    async def _pin_here(self) -> None:
        """Pin what is mapped here. No client is needed for that."""
        wanted, self._here = [piece for piece in self._here if piece.is_open], []
        if sum(piece.length for piece in wanted) <= FEW and not self._own_rings_lock.locked():
            self._pin_files(wanted)
            return
        await leave()
        async with self._own_rings_lock:
            await trio.to_thread.run_sync(self._pin_files, [piece for piece in wanted if piece.is_open])
        for piece in wanted:
            if not piece.is_open:
                unpin(piece)

    def _pin_files(self, wanted: Sequence[InFile]) -> None:
        for piece in wanted:
            try:
                piece.true_pin = self._own_rings.pin(piece.address, piece.length)
            except OSError as failure:
                log.debug("%d bytes of a file are not held: %s", piece.length, failure)

    def settle_soon(self) -> None:
        """Make the notes true soon: something may have been unpinned outside of any ioctl."""
        self._flush()
        self._begin_all()

    def _begin_all(self) -> None:
        for mm in list(self._unsettled):
            if mm not in self._runs:
                self._begin(mm)

    async def wait_until_idle(self) -> None:
        """Wait until no run is at work; for tests."""
        while self._here:
            await self._pin_here()
        while self._runs:
            await next(iter(self._runs.values())).done.wait()

    def close(self) -> None:
        """The device is gone. Take back at once, as far as possible, what clients still have of
        it.
        """
        end = time.monotonic() + CLOSING
        self._begin_all()
        self._closing = True
        runs = list(self._runs.values())
        _join(runs, end)
        for run in runs:
            run.catch.give_up()
            helper = run.helper
            if helper is not None:
                helper.kill()
        _join(runs, time.monotonic() + KILLING)
        for run in runs:
            if run.ended.is_set():
                self._end(run)
        for mm in list(self._unsettled):
            if mm not in self._runs:
                self._forget(mm)
        self._own_rings.close()

    def _flush(self) -> None:
        """Settle what can be settled at once, and from outside."""
        for mm, account in list(self._unsettled.items()):
            if mm in self._runs:
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
            mm.put()

    def _complain(self, mm: Mm, failure: Exception) -> None:
        account = account_of(mm)
        account.complain(
            f"what process {mm.pid} has pinned is not held, or does not show in its VmPin and VmLck: {failure}", True
        )

    def _begin(self, mm: Mm, offer: Offer | None = None) -> Run:
        """Begin a run, with the thread that is offered, or any thread of the address space. No
        other run for this address space may be at work.
        """
        run = Run(mm, lambda stuck: Catch(mm, self._machine, self._harmless_filters, offer, stuck))
        self._runs[mm] = run
        mm.get()
        try:
            if len(self._runs) > MOST:
                raise ControlError("too many processes cannot be stopped")
            threading.Thread(target=self._carry_out, args=(run,), name="pin", daemon=True).start()
        except (ControlError, RuntimeError) as failure:
            run.failure = ControlError(str(failure))
            run.changes = account_of(mm).changes
            self._end(run)
        return run

    def _end(self, run: Run) -> None:
        """The run has ended. To call this a second time has no effect."""
        mm, account = run.mm, account_of(run.mm)
        if self._runs.get(mm) is not run:
            return
        del self._runs[mm]
        account.late = time.monotonic() - run.began > SHORT
        if isinstance(run.failure, ThreadGone):
            log.debug("process %d is gone", mm.pid)
        elif isinstance(run.failure, ControlError | OSError):
            self._complain(mm, run.failure)
        elif run.failure is not None:
            log.error("bug: true pins of %r", mm, exc_info=run.failure)
        for piece in run.wanted:
            if not piece.is_open and piece.true_pin is not None:  # while it was being pinned
                unpin(piece)
        if account.changes == run.changes or account.settled or self._closing:
            self._forget(mm)
        else:
            self._begin(mm)
        run.is_done()
        mm.put()

    # --- in the run's own thread: its end lets go of the client's threads that have not stopped ---

    def _carry_out(self, run: Run) -> None:
        try:
            with run.catch:
                self._work(run)
        except Exception as failure:
            run.failure = failure
        finally:
            run.ended.set()
            run.tell(lambda: self._end(run))

    def _work(self, run: Run) -> None:
        account = account_of(run.mm)
        run.changes = account.changes
        if (
            not account.wanted
            and (account.counter is not None or not account.behind)
            and account.locked_shown == max(account.locked, 0)
        ):
            account.show()
            return
        # the client sees none of it before all of it is there
        with run.catch.hand() as hand, hand.helper() as helper:
            run.helper = helper
            run.changes = account.changes
            run.wanted += account.take_wanted()
            try:
                self._make_rings(run.mm, helper, run.wanted)
            finally:
                if account.locked_shown != max(account.locked, 0):
                    show_locked(run.mm, helper, max(account.locked, 0))
                account.show()

    def _make_rings(self, mm: Mm, helper: Helper, wanted: Sequence[InProcess]) -> None:
        account = account_of(mm)
        try:
            if wanted:
                pin_in_rings(mm, helper, wanted)
        finally:
            if account.behind and account.counter is None:
                if not self._counts_all:
                    helper.give_up(CAP_IPC_LOCK)
                account.counter = new_counter(helper)


class Reply:
    """The reply to the request in whose task this is made."""

    def __init__(self, result: int) -> None:
        self._result = result
        self._send = reply_taker.get()()  # None: the request has been answered
        self._lock = threading.Lock()

    @property
    def is_sent(self) -> bool:
        return self._send is None

    def send(self) -> bool:
        """Send it. Any thread. False: it was sent before."""
        with self._lock:
            send, self._send = self._send, None
            if send is not None:
                send(self._result)
            return send is not None


def _join(runs: Sequence[Run], end: float) -> None:
    for run in runs:
        run.ended.wait(max(end - time.monotonic(), 0))
