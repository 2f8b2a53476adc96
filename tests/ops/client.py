"""A client without a process: what it sends goes through the dispatcher to the real handlers and
the real engine.

ioas = (await client.send("IOAS_ALLOC")).out_ioas_id await client.send("IOAS_UNMAP", ioas_id=ioas,
length=PAGE, expect=ENOENT, why="nothing is mapped in 0x0..0xfff")
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import EBUSY
from typing import Any

import trio

from cuse_glue.request import inline
from iommud.engine.device.context import Context
from iommud.engine.device.device import Device, at_once, bind
from iommud.engine.mapping.io_pagetable import IoPagetable
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.objects import Object
from iommud.engine.memory.host import Host
from iommud.engine.memory.pages import Pages
from iommud.errors import IoctlError, errno_name
from iommud.ops import vfio
from iommud.ops.dispatch import Dispatcher
from iommud.ops.locking import idle
from iommud.ops.row import Row
from iommud.ops.table import ROWS
from iommud.ops.vfio import vfio_ioctl
from iommud.selftest.kinds import DEFAULT
from iommud.selftest.plug import Plugged, Socket
from iommud.uapi.header import const, ffi
from tests.engine.fakes import Faults, FaultyTable, errno_of
from tests.engine.mirror import Mirror

from .twins import PAGE, TwinCaller, TwinDescriptors, TwinOrigin, TwinOrigins

AT = 0x10_0000  # where a struct lies, unless said otherwise
FIXED, W, R = (const(f"IOMMU_IOAS_MAP_{name}") for name in ("FIXED_IOVA", "WRITEABLE", "READABLE"))
RW = R | W
NO_ID = 0x7FFF_FFFF  # an ID that nothing has

Fields = dict[str, Any]
Mended = Mapping[str, Any] | Callable[[], object]


class Turns(trio.abc.Instrument):
    """How often a task had its turn."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.turns = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.turns += task is self.task


@contextmanager
def turns(task: trio.lowlevel.Task) -> Iterator[Turns]:
    counting = Turns(task)
    trio.lowlevel.add_instrument(counting)
    try:
        yield counting
    finally:
        trio.lowlevel.remove_instrument(counting)


class Client:
    """A context, a process that calls, and a dispatcher that knows IOMMUFD's ioctls, VFIO's, and
    `more`.
    """

    def __init__(self, *more: Row) -> None:
        self.host = Host()
        self.mirror = Mirror()
        self.host.observer = self.mirror
        self.faults = Faults()  # IDs may run out, and memory may not be there
        self.context = Context(self.host)
        self.context.objects = FaultyTable(self.faults, self.host)
        self.caller = TwinCaller()
        self.caller.process.faults = self.faults
        self.memory = self.caller.memory
        self.origins = TwinOrigins()
        self.descriptors = TwinDescriptors()
        rows = (*ROWS, *more)
        self.rows: dict[str, Row] = {row.name: row for row in (*rows, *vfio.ROWS.values())}
        self.dispatcher = Dispatcher(rows, vfio_ioctl, self.origins, self.descriptors)
        self.pauses = 0  # how often others had their turn during the last ioctl
        self.when_left: Callable[[], object] = lambda: (
            None
        )  # done when an ioctl has to wait, and others may have their turn
        self._is_open = True
        self._sockets: dict[str, Socket] = {}
        self._devices: list[tuple[Device, Plugged]] = []

    # --- ioctls ---

    async def call(self, cmd: int, argument: int, caller: TwinCaller | None = None) -> int:
        """The result of any ioctl. IoctlError: it is refused. As a session does it: begun at once,
        and gone on with if it leaves.
        """
        handler = self.dispatcher.dispatch(self.context, caller or self.caller, cmd, argument)
        self.pauses = 0
        finished, result = inline.start(handler)
        if not finished:
            self.when_left()
            with turns(trio.lowlevel.current_task()) as seen:
                try:
                    result = await inline.finish(handler)
                finally:
                    self.pauses = seen.turns
        return int(result)

    async def errno(self, cmd: int, argument: int) -> int:
        """What the client gets: 0, or the errno. A refusal without a sentence is none."""
        try:
            await self.call(cmd, argument)
        except IoctlError as refusal:
            return refusal.errno if refusal.why else -1
        return 0

    async def send(
        self,
        name: str,
        *,
        expect: int = 0,
        why: str = "",
        at: int = AT,
        read_only: bool = False,
        caller: TwinCaller | None = None,
        **fields: Any,
    ) -> Any:
        """One ioctl: a struct of these fields (one that is a struct itself: a mapping), put at the
        address `at`. The struct as the client has it afterwards.

        `expect`: the errno with which it is to be refused, and `why`: a part of the sentence that
        says so. `read_only`: the struct cannot be written back. `size`, or `argsz`: as it is,
        unless given.
        """
        row, memory = self.rows[name], (caller or self.caller).memory
        cmd = ffi.new(row.struct.pointer)
        setattr(cmd, "argsz" if name.startswith("VFIO_IOMMU") else "size", row.struct.size)
        _fill(cmd, fields)
        memory.map(at, bytes(ffi.buffer(cmd)), read_only=read_only)
        refused: IoctlError | None = None
        try:
            assert await self.call(row.number, at, caller) == 0
        except IoctlError as refusal:
            refused = refusal
        memory.map(at)
        got = refused.errno if refused is not None else 0
        assert got == expect, f"{name}: {refused or 'done'}; wanted: {errno_name(expect) if expect else 'done'}"
        assert refused is None or (refused.why and why in refused.why), f"{name}: {refused}; wanted a word of: {why}"
        ffi.memmove(cmd, memory.read(at, row.struct.size), row.struct.size)
        return cmd

    async def refuse_in_order(self, name: str, wrong: Fields, *rules: tuple[int, str, "Mended"]) -> Any:
        """Send an ioctl that is `wrong` in every way, and mend one thing after another until it is
        done; the answer.

        Each of `rules`: errno and sentence of the refusal, and what is mended then: fields, or
        something that is to be called. So whoever looks at two things in another order than the
        kernel is found out.
        """
        fields: Fields = dict(wrong)
        for errno, why, mended in rules:
            await self.send(name, expect=errno, why=why, **fields)
            if callable(mended):
                mended()
            else:
                fields |= mended
        return await self.send(name, **fields)

    async def read(self, descriptor: int, size: int) -> bytes:
        """Of a descriptor that was given here. OSError: what read(2) fails with."""
        file: Any = self.descriptors.open[descriptor]
        data = await file.read(self.caller, 0, size, nonblocking=True)
        assert isinstance(data, bytes)
        assert len(data) <= size
        return data

    async def write(self, descriptor: int, data: bytes) -> int:
        file: Any = self.descriptors.open[descriptor]
        return int(await file.write(self.caller, 0, data, nonblocking=True))

    def poll(self, descriptor: int, wake: Callable[[], None] | None = None) -> int:
        file: Any = self.descriptors.open[descriptor]
        return int(file.poll(wake))

    async def new_ioas(self) -> int:
        answer = await self.send("IOAS_ALLOC")
        return int(answer.out_ioas_id)

    async def map(
        self, ioas: int, iova: int, length: int = PAGE, *, address: int = 0x7000_0000, flags: int = RW
    ) -> int:
        """Show this memory, which is made if need be, at a fixed IOVA."""
        if address + length - 1 < 1 << 47:
            self.memory.map(address, bytes(length))
        answer = await self.send(
            "IOAS_MAP", flags=FIXED | flags, ioas_id=ioas, user_va=address, length=length, iova=iova
        )
        return int(answer.iova)

    # --- what there is ---

    def table(self, ioas: int) -> IoPagetable:
        return self.context.objects.get(ioas, Ioas).iopt

    def areas(self, ioas: int) -> list[tuple[int, int]]:
        """(IOVA, length) of each."""
        return [(area.iova, area.length) for area in self.table(ioas).areas]

    def pages(self, ioas: int) -> list[Pages]:
        """What stands behind each area."""
        return [area.pages for area in self.table(ioas).areas if area.pages is not None]

    def object(self, number: int) -> Any:
        return self.context.objects.get(number, Object)

    def kinds(self) -> list[str]:
        """Of the objects, by ID."""
        return [obj.kind for obj in self.context.objects]

    def file(self, number: int, **how: Any) -> TwinOrigin:
        """Open a file of the caller's, as this descriptor."""
        self.caller.files[number] = TwinOrigin(self.faults, mm=self.caller.process.mm, is_file=True, **how)
        return self.caller.files[number]

    def cannot_go(self, number: int) -> None:
        """The object is in use, if only by a request that waits."""
        assert errno_of(lambda: self.context.objects.remove(number)) == EBUSY

    # --- devices ---

    def device(self, *, attach: int | None = None, kind: str = DEFAULT, flags: int = 0) -> Device:
        """A new device behind an IOMMU of this kind, bound, and attached if an ID is given."""
        device = self.plug(self._sockets.setdefault(kind, Socket(kind)).plug(flags))
        if attach is not None:
            at_once(device.attach(attach))
        return device

    def plug(self, plugged: Plugged) -> Device:
        """Bind any device."""
        device = bind(self.context, *plugged)
        self._devices.append((device, plugged))
        return device

    def remove(self, device: Device) -> None:
        """It is pulled out."""
        (found,) = [entry for entry in self._devices if entry[0] is device]
        self._devices.remove(found)
        device.detach_all()
        device.unbind()
        found[1].unplug()

    def close_device(self) -> None:
        """The device file, that is. Descriptors that were given may be open still."""
        if self._is_open:
            self._is_open = False
            self.context.put()

    def close(self) -> None:
        """The client ends: what it leaves, anywhere, is a fault."""
        assert idle(), "a lock is held"
        self.mirror.check(self.host, [self.context])
        for number in list(self.descriptors.open):
            self.descriptors.close(number)
        for device, _ in list(self._devices):
            self.remove(device)
        self.close_device()
        assert len(self.context.objects) == 0
        assert self.host.empty()
        assert self.host.standing == 0
        self.origins.check_gone()


def _fill(struct: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _fill(getattr(struct, name), value)
        else:
            setattr(struct, name, value)
