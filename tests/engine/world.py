"""A host with contexts, memory, devices and accesses, to play with; `close` takes all down and
finds what was left behind.
"""

from collections.abc import Hashable
from typing import Any

from iommud.engine.device.context import Context
from iommud.engine.device.device import Device, bind
from iommud.engine.device.model import Region
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.host import Host
from iommud.engine.memory.span import U64_MAX

from .fakes import FakeDevice, FakeIommu, FakeOrigin, FakeUser, Faults, FaultyTable, P, new_ioas
from .mirror import Mirror
from .snapshot import check, check_gone, snapshot


class World:
    """`context` is the first of `contexts`."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.host = Host()
        self.mirror = Mirror()
        self.host.observer = self.mirror
        self.contexts: list[Context] = []
        self.origins: list[FakeOrigin] = []
        self.fakes: list[FakeDevice] = []
        self.devices: list[Device] = []
        self.users: list[FakeUser] = []
        self.context = self.new_context()

    def new_context(self) -> Context:
        context = Context(self.host)
        context.objects = FaultyTable(self.faults, self.host)
        self.contexts.append(context)
        return context

    def ioas(self, context: Context | None = None) -> Ioas:
        return new_ioas(context or self.context)

    def origin(self, *, uid: int = 1000, mm: Hashable = "mm", is_file: bool = False) -> FakeOrigin:
        origin = FakeOrigin(self.faults, uid=uid, mm=mm, is_file=is_file)
        self.origins.append(origin)
        return origin

    def fake(
        self,
        *,
        group: Hashable = None,
        make: str = "fake",
        page_sizes: int = P,
        aperture: tuple[int, int] = (0, U64_MAX),
        regions: list[Region] | None = None,
        max_pasids: int = 0,
        iommu: FakeIommu | None = None,
    ) -> FakeDevice:
        fake = FakeDevice(
            self.faults,
            group=group,
            name=f"fake{len(self.fakes)}",
            make=make,
            page_sizes=page_sizes,
            aperture=aperture,
            regions=regions,
            max_pasids=max_pasids,
            iommu=iommu,
        )
        self.fakes.append(fake)
        return fake

    def bind(self, fake: FakeDevice, context: Context | None = None) -> Device:
        device = bind(context or self.context, fake, fake.iommu)
        self.devices.append(device)
        return device

    def device(self, **how: Any) -> Device:
        """A fake (see `fake`), bound in the first context."""
        return self.bind(self.fake(**how))

    def unbind(self, device: Device) -> None:
        device.detach_all()
        device.unbind()
        self.devices.remove(device)

    def user(self, ioas: Ioas | None = None, *, pins: bool = True, context: Context | None = None) -> FakeUser:
        """An access on an IOAS."""
        user = FakeUser(context or self.context, pins=pins, name=f"user{len(self.users)}")
        self.users.append(user)
        if ioas is not None:
            stand(user, ioas)
        return user

    def release(self, user: FakeUser) -> None:
        user.release()
        self.users.remove(user)

    def snapshot(self) -> dict[str, Any]:
        return snapshot(self.host, self.contexts, self.origins, self.fakes)

    def check(self) -> None:
        check(self.host, self.contexts, self.users)
        self.mirror.check(self.host, self.contexts)

    def close(self) -> None:
        self.faults.arm(None)
        self.check()
        for user in list(self.users):
            self.release(user)
        for device in list(self.devices):
            self.unbind(device)
        self.check()
        for context in self.contexts:
            context.put()
            assert len(context.objects) == 0
            assert context.groups == {}
        check_gone(self.host, self.origins)


def stand(user: FakeUser, ioas: Ioas) -> None:
    """Attach an access, which waits for nothing as it stands nowhere."""
    at_rest(user.access.attach(ioas.id))


def at_rest(coroutine: Any) -> None:
    """Run what is async but does not wait here."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")
