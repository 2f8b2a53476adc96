"""A driver without a process: what it asks of a VFIO device goes through the dispatcher to the real
handlers, the real functions and the real engine.
"""

from errno import EBADF, EBADFD, EMFILE
from typing import Any

from cuse_glue.request import inline
from iommud.engine.device.context import Context
from iommud.errors import IoctlError, errno_name
from iommud.iommus.kinds import new_iommu
from iommud.ops.request import Descriptors, Origins
from iommud.pci.bus import Bus
from iommud.pci.function import PciFunction, Slot
from iommud.pci.plugged import Plugged
from iommud.uapi.header import const, ffi, offset_end
from iommud.uapi.layout import layout
from iommud.vfio.bind import STRUCT
from iommud.vfio.device import Bound, DeviceFile, VfioDevice
from iommud.vfio.dispatch import dispatch
from iommud.vfio.group import Groups, VfioGroup
from iommud.vfio.group_ioctls import dispatch as dispatch_of_group
from iommud.vfio.outside import Registers
from iommud.vfio.table import ROWS
from iommud.vfio.type1.container import Container
from tests.ops.client import AT, Client
from tests.ops.twins import TwinCaller
from tests.pci.kit import Clock, Plain, Table

IOMMUFD, OTHER, NOT_OURS = 3, 4, 5  # descriptors of the caller's
STRUCTS = {row.name: row.struct for row in ROWS} | {"BIND_IOMMUFD": STRUCT}
NUMBERS = {row.name: row.number for row in ROWS} | {"BIND_IOMMUFD": const("VFIO_DEVICE_BIND_IOMMUFD")}
CONFIG = 7 << 40
COMMAND = CONFIG + 4


class Outside:
    """iommud.vfio.outside.Outside."""

    def __init__(self, client: Client, other: Client) -> None:
        self.origins: Origins = client.origins
        self.descriptors: Descriptors = client.descriptors
        self.table = Table(*range(10, 20))
        self.can_map = True
        self.contexts = {IOMMUFD: client.context, OTHER: other.context}
        self.containers: dict[int, Container] = {}
        self.mapped: list[Registers] = []

    def eventfds(self, caller: TwinCaller) -> Table:
        return self.table

    def maps(self, device: VfioDevice, caller: TwinCaller) -> bool:
        return self.can_map

    async def context(self, caller: TwinCaller, number: int) -> Context:
        if number in self.contexts:
            return self.contexts[number]
        raise IoctlError(EBADFD if number == NOT_OURS else EBADF, f"what descriptor {number} is")

    async def container(self, caller: TwinCaller, number: int) -> Container | Context:
        return self.containers[number] if number in self.containers else await self.context(caller, number)

    async def registers(self, caller: TwinCaller, start: int, length: int) -> list[Registers]:
        return [each for each in self.mapped if each.start < start + length and start < each.end]

    async def quiet(self, group: int | None) -> None:
        pass


class Giver:
    """iommud.vfio.group_ioctls.Descriptors, of one ioctl."""

    def __init__(self, machine: "Machine", *, fails: bool) -> None:
        self._machine = machine
        self._fails = fails

    def opening(self, device: VfioDevice) -> None:
        device.files += 1

    def closed(self, device: VfioDevice) -> None:
        device.files -= 1

    async def give(self, caller: TwinCaller, file: DeviceFile) -> int:
        if self._fails:
            file.release()
            self.closed(file.device)
            raise IoctlError(EMFILE, "no descriptor is free")
        self._machine.files.append(file)
        return len(self._machine.files) - 1


class Machine:
    """Devices, and two clients of /dev/iommu."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bus = Bus()
        self.client, self.other = Client(), Client()
        self.outside = Outside(self.client, self.other)
        self.groups = Groups(self.client.host)
        self.files: list[DeviceFile] = []

    def device(self, kind: type[PciFunction] = Plain, slot: Slot | None = None, *, iommu: str = "vtd") -> VfioDevice:
        function = kind(slot or Slot(scheduler=self.clock))
        device = VfioDevice(self.bus.plug(function, iommu), new_iommu(iommu))
        self.groups.add(device)
        return device

    def group(self, device: VfioDevice) -> VfioGroup:
        """Its group, opened."""
        assert device.plugged.group is not None
        found = self.groups.find(device.plugged.group)
        assert found is not None
        found.open()
        return found

    async def ask_group(self, group: VfioGroup, name: str, argument: int = 0, *, fails: bool = False) -> int:
        """One ioctl of a group: its result, or -errno. `fails`: no descriptor can be given."""
        giver = Giver(self, fails=fails)
        handler = dispatch_of_group(
            group, self.client.caller, self.outside, giver, const(f"VFIO_GROUP_{name}"), argument
        )
        try:
            finished, result = inline.start(handler)
            return int(result if finished else await inline.finish(handler))
        except IoctlError as refusal:
            return -refusal.errno if refusal.why else -1

    async def set_container(self, group: VfioGroup, number: int) -> int:
        self.client.memory.map(AT, number.to_bytes(4, "little", signed=True))
        return await self.ask_group(group, "SET_CONTAINER", AT)

    async def take(self, group: VfioGroup, name: str, *, fails: bool = False) -> int:
        """GET_DEVICE_FD: the place of what was given in `files`, or -errno."""
        self.client.memory.map(AT, name.encode() + b"\0")
        return await self.ask_group(group, "GET_DEVICE_FD", AT, fails=fails)

    async def status(self, group: VfioGroup) -> int:
        """GET_STATUS: the flags, or -errno."""
        self.client.memory.map(AT, (8).to_bytes(4, "little") + b"\xff" * 4)
        refused = await self.ask_group(group, "GET_STATUS", AT)
        return refused or int.from_bytes(self.client.memory.read(AT + 4, 4), "little")

    def open(self, device: VfioDevice) -> DeviceFile:
        self.files.append(DeviceFile(device))
        return self.files[-1]

    async def bound(self, device: VfioDevice, iommufd: int = IOMMUFD) -> DeviceFile:
        file = self.open(device)
        await self.ask(file, "BIND_IOMMUFD", iommufd=iommufd)
        return file

    async def call(self, file: DeviceFile, cmd: int, argument: int = 0) -> int:
        """As a session does it."""
        handler = dispatch(file, self.client.caller, self.outside, cmd, argument)
        finished, result = inline.start(handler)
        return int(result if finished else await inline.finish(handler))

    async def errno(self, file: DeviceFile, cmd: int, argument: int = 0) -> int:
        """0, or the errno. A refusal without a sentence is none."""
        try:
            await self.call(file, cmd, argument)
        except IoctlError as refusal:
            return refusal.errno if refusal.why else -1
        return 0

    async def ask(
        self,
        file: DeviceFile,
        name: str,
        *,
        expect: int = 0,
        behind: bytes = b"",
        at: int = AT,
        read_only: bool = False,
        **fields: Any,
    ) -> Any:
        """One ioctl: a struct of these fields, and the bytes `behind` it; the struct afterwards.
        argsz is of all of it, unless given. `expect`: the errno with which it is to be refused.
        """
        struct = STRUCTS[name]
        assert struct is not None
        cmd: Any = ffi.new(layout(struct.name).pointer)
        cmd.argsz = struct.size + len(behind)
        for field, value in fields.items():
            setattr(cmd, field, value)
        memory = self.client.memory
        memory.map(at, bytes(ffi.buffer(cmd)) + behind, read_only=read_only)
        refused: IoctlError | None = None
        try:
            self.result = await self.call(file, NUMBERS[name], at)
        except IoctlError as refusal:
            refused = refusal
        memory.map(at)
        got = refused.errno if refused is not None else 0
        assert got == expect, f"{name}: {refused or 'done'}; wanted: {errno_name(expect) if expect else 'done'}"
        ffi.memmove(cmd, memory.read(at, struct.size), struct.size)
        return cmd

    def close(self) -> None:
        """Nothing is left of anything."""
        for file in self.files:
            file.release()
        assert self.outside.table.users() == 0
        self.client.close()
        self.other.close()

    # --- one device ---

    @staticmethod
    def bound_of(file: DeviceFile) -> Bound:
        assert file.bound is not None
        return file.bound

    @staticmethod
    def plugged(file: DeviceFile) -> Plugged:
        return file.device.plugged


def min_size(name: str, last: str) -> int:
    struct = STRUCTS[name]
    assert struct is not None
    return offset_end(struct.name, last)
