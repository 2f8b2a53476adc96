"""The device file: what an open makes, and how an outcome becomes a reply."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from errno import EINVAL, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, EPERM
from typing import Any

import pytest

from cuse_glue.pins.source import Sources
from cuse_glue.request.caller import Caller
from iommud.doors import Behind, doors
from iommud.engine.memory.origin import AccountMode
from iommud.engine.memory.share import Alone
from iommud.errors import IoctlError
from iommud.file import device_file
from iommud.file.device_file import IommuDevice, IommuFile, Outcome, VfioContainer
from iommud.file.no_data import ALWAYS_READY
from iommud.file.vfio_container import ContainerFile
from iommud.settings import Settings
from iommud.uapi.header import const, ffi

from .ourselves import TwinInjector, ourselves

Make = Callable[..., IommuDevice]


DOORS = {door.behind: door for door in doors(Settings(vfio="iommufd"))}


@pytest.fixture
def injectors(monkeypatch: pytest.MonkeyPatch) -> list[TwinInjector]:
    """Of the devices that are made, in order."""
    made: list[TwinInjector] = []

    def new(**how: Any) -> TwinInjector:
        made.append(TwinInjector(**how))
        return made[-1]

    monkeypatch.setattr(device_file, "Injector", new)
    return made


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """When Python's garbage would have been looked for, which takes long among pytest's."""
    times: list[str] = []
    monkeypatch.setattr("gc.collect", lambda: times.append("collected"))
    return times


@pytest.fixture
def make(injectors: list[TwinInjector], collected: list[str]) -> Iterator[Make]:
    """An IommuDevice, which is shut down at the end and must be empty by then."""
    made: list[IommuDevice] = []

    def make(*args: Any, **how: Any) -> IommuDevice:
        made.append(IommuDevice(*args, **how))
        return made[-1]

    yield make
    for device in made:
        device.shutdown()
        assert device.host.empty()
        assert device.host.standing == 0
    assert all(injector.is_closed for injector in injectors)


def opened(device: IommuDevice, behind: Behind = Behind.IOMMU) -> IommuFile:
    file = device.opener(DOORS[behind]).open(ourselves(), 0)
    assert isinstance(file, IommuFile)
    return file


async def send(file: IommuFile, name: str, struct: str = "", **fields: int) -> tuple[int, Any]:
    """The result of an ioctl whose struct lies in this process, and the struct afterwards."""
    struct = struct or f"iommu_{name.lower()}"
    cmd = ffi.new(f"struct {struct} *", {"size": ffi.sizeof(f"struct {struct}")} | fields)
    result = await file.ioctl(ourselves(), const(f"IOMMU_{name}"), int(ffi.cast("uintptr_t", cmd)))
    return result, cmd


class Failing:
    """A dispatcher that meets something unforeseen."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    async def dispatch(self, *_: object) -> int:
        raise self.failure


# --- open and release ---


async def test_each_open_is_a_context(make: Make) -> None:
    device = make()
    one, two = opened(device), opened(device)
    assert (await send(one, "IOAS_ALLOC"))[1].out_ioas_id == 1
    assert (await send(one, "IOAS_ALLOC"))[1].out_ioas_id == 2
    assert (await send(two, "IOAS_ALLOC"))[1].out_ioas_id == 1
    assert device.host.standing == 5
    one.release()
    assert device.host.standing == 2
    two.release()
    assert device.host.standing == 0


async def test_the_container_of_type1_is_no_context(make: Make) -> None:
    device = make(Settings(vfio="type1"))
    file = device.opener(DOORS[Behind.CONTAINER]).open(ourselves(), 0)
    assert isinstance(file, ContainerFile)
    assert file.container.context.account_mode == AccountMode.MM
    assert await file.ioctl(ourselves(), const("VFIO_GET_API_VERSION"), 0) == 0
    assert await file.ioctl(ourselves(), const("VFIO_SET_IOMMU"), 1) == -EINVAL
    assert await file.ioctl(ourselves(), const("IOMMU_IOAS_ALLOC"), 0) == -EINVAL
    with pytest.raises(OSError, match="Invalid"):
        await file.read(ourselves(), 0, 1, False)
    file.release()
    assert device.host.empty()


async def test_the_container_charges_processes(make: Make) -> None:
    device = make()
    file, container = opened(device), opened(device, Behind.CONTAINER)
    assert isinstance(device.opener(DOORS[Behind.CONTAINER]), VfioContainer)
    assert device.opener(DOORS[Behind.IOMMU]) is device
    assert [opened.context.account_mode for opened in (file, container)] == [AccountMode.NONE, AccountMode.MM]
    for one in (file, container):
        one.release()


def test_an_open_that_was_made_for_a_descriptor_gets_that(make: Make, injectors: list[TwinInjector]) -> None:
    """Also by the container's door, whose rule is for contexts."""
    device = make()
    given: Any = object()
    injectors[0].claimed = given
    for behind in DOORS:
        assert device.opener(DOORS[behind]).open(ourselves(), 0) is given
    assert device.host.standing == 0


class Spent(Alone):
    """A user who has had his share."""

    def grant(self, granted: int) -> int:
        raise IoctlError(ENOMEM, "the user has had his share")


def test_an_open_that_is_refused_says_why(make: Make) -> None:
    lines: list[str] = []
    device = make(share=Spent(), say=lines.append)
    for behind in DOORS:
        with pytest.raises(OSError) as refused:
            device.opener(DOORS[behind]).open(ourselves(), 0)
        assert refused.value.errno == ENOMEM
    assert [line.split(": ", 1)[1] for line in lines] == 2 * ["open: ENOMEM: the user has had his share"]
    with pytest.raises(OSError):
        make(share=Spent()).open(ourselves(), 0)


async def test_what_is_kept_about_clients_goes_with_the_last_file(
    make: Make, collected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And garbage is looked for then, as nobody waits for an answer."""
    device = make()
    forgotten: list[str] = []
    one, two = opened(device), opened(device)
    with monkeypatch.context() as patch:
        patch.setattr(device.origins, "forget_callers", lambda: forgotten.append("forgotten"))
        one.release()
        assert (forgotten, collected) == ([], [])
        two.release()
        assert (forgotten, collected) == (["forgotten"], ["collected"])


# --- outcomes ---


async def test_a_refusal_is_an_errno_and_a_line(make: Make) -> None:
    lines: list[str] = []
    file = opened(make(say=lines.append))
    assert (await send(file, "DESTROY", id=7))[0] == -ENOENT
    assert (await send(file, "IOAS_ALLOC"))[0] == 0
    ((_, line),) = [line.split(": ", 1) for line in lines]
    assert line == "IOMMU_DESTROY: ENOENT: there is no object 7; wanted: object"
    file.release()


async def test_without_the_test_driver_its_command_is_none(make: Make) -> None:
    for mock, errno in ((False, 25), (True, EINVAL)):
        file = opened(make(Settings(mock=mock)))
        result = await send(file, "TEST_CMD", size=1)
        assert result[0] == -errno
        file.release()


@pytest.mark.parametrize(
    ("failure", "errno", "why"),
    [
        (MemoryError(), ENOMEM, "iommud has no more memory for this user (--share memory=SIZE)"),
        (
            RuntimeError("can't start new thread"),
            ENOMEM,
            "iommud has no more memory for this user (--share memory=SIZE)",
        ),
        (OSError(EMFILE, ""), ENOMEM, "iommud has no descriptors left (raise its RLIMIT_NOFILE)"),
        (OSError(ENFILE, ""), ENOMEM, "iommud has no descriptors left (raise its RLIMIT_NOFILE)"),
        (IoctlError(EPERM, "not for you"), EPERM, "not for you"),
    ],
)
async def test_what_we_lack_ourselves_is_told(make: Make, failure: Exception, errno: int, why: str) -> None:
    lines: list[str] = []
    device = make(say=lines.append)
    file = opened(device)
    device.dispatcher = Failing(failure)  # type: ignore[assignment]
    assert (await send(file, "IOAS_ALLOC"))[0] == -errno
    (line,) = lines
    assert line.endswith(f": IOMMU_IOAS_ALLOC: {'ENOMEM' if errno == ENOMEM else 'EPERM'}: {why}")
    file.release()


@pytest.mark.parametrize("failure", [OSError(ENOENT, "of our own"), ZeroDivisionError("a bug")])
async def test_a_bug_of_ours_is_eio_and_a_traceback(
    make: Make, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    """Never an errno of our own for the client, and no line that says he was wrong."""
    lines: list[str] = []
    device = make(say=lines.append)
    file = opened(device)
    device.dispatcher = Failing(failure)  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR, "iommud"):
        assert (await send(file, "IOAS_ALLOC"))[0] == -EIO
    (record,) = caplog.records
    assert record.getMessage().startswith("bug: IOMMU_IOAS_ALLOC of ")
    assert record.exc_info is not None
    assert record.exc_info[1] is failure
    assert lines == []
    file.release()


class Hook:
    """Notes what it is told, and may change the result."""

    def __init__(self, change: Callable[[int], int] = lambda result: result) -> None:
        self.change = change
        self.seen: list[tuple[int, int, int | None]] = []

    async def after(self, outcome: Outcome) -> None:
        self.seen.append((outcome.cmd, outcome.result, outcome.refusal.errno if outcome.refusal else None))
        outcome.result = self.change(outcome.result)


async def test_hooks_are_told_one_after_the_other(make: Make) -> None:
    device = make()
    assert device.hooks == []
    first, second = Hook(lambda result: -EPERM if result == 0 else result), Hook()
    device.hooks += [first, second]
    file = opened(device)
    assert (await send(file, "IOAS_ALLOC"))[0] == -EPERM
    assert (await send(file, "DESTROY", id=7))[0] == -ENOENT
    alloc, destroy = const("IOMMU_IOAS_ALLOC"), const("IOMMU_DESTROY")
    assert first.seen == [(alloc, 0, None), (destroy, -ENOENT, ENOENT)]
    assert second.seen == [(alloc, -EPERM, None), (destroy, -ENOENT, ENOENT)]
    file.release()


class TwinPins:
    """True pins that settle at once."""

    def __init__(self) -> None:
        self.settled: list[int] = []
        self.log: list[str] = []

    async def settle(self, caller: Caller, result: int) -> int:
        self.settled.append(result)
        return result - 100 if result else 0

    def settle_soon(self) -> None:
        self.log.append("released")

    def close(self) -> None:
        self.log.append("closed")


async def test_true_pins_are_settled_before_the_client_hears_of_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = TwinPins()

    class WithPins(Sources):
        def __init__(self, *, true_pins: bool, harmless_filters: int | None) -> None:
            super().__init__(harmless_filters=harmless_filters)
            made: Any = pins if true_pins else None
            self.true_pins = made

    monkeypatch.setattr(device_file, "Sources", WithPins)
    lines: list[str] = []
    device = make(Settings(pin="uring"), say=lines.append)
    file = opened(device)
    assert (await send(file, "IOAS_ALLOC"))[0] == 0
    assert (await send(file, "DESTROY", id=7))[0] == -ENOENT - 100
    assert (pins.settled, len(lines)) == ([0, -ENOENT], 1)
    file.release()
    assert pins.log == ["released"]
    device.shutdown()
    assert pins.log == ["released", "closed"]
    assert make().hooks == []


def test_what_was_left_out_is_told_at_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `run`, which has one user, more lines are written."""
    monkeypatch.setattr("iommud.tokens.time.monotonic", lambda: 0.0)
    for filters, most in ((None, 100), (0, 1000), (1, 1000)):
        lines: list[str] = []
        device = make(say=lines.append, harmless_filters=filters)
        assert device.why is not None
        for _ in range(most + 7):
            device.why.refused(ourselves(), "X", "no")
        device.shutdown()
        assert len(lines) == most + 1
        assert lines[-1].endswith("were left out")


# --- what else a file can be asked ---


async def test_the_device_cannot_be_read_or_written(make: Make) -> None:
    file = opened(make())
    calls: tuple[Awaitable[object], ...] = (
        file.read(ourselves(), 0, 8, False),
        file.write(ourselves(), 0, b"12345678", False),
    )
    for call in calls:
        with pytest.raises(OSError) as refused:
            await call
        assert refused.value.errno == EINVAL
    assert file.poll(lambda: None) == ALWAYS_READY
    file.release()


def test_only_the_test_drivers_devices_show_something(make: Make) -> None:
    plain, mock = make(), make(Settings(mock=True))
    assert [plain.mapped_by(door) for door in DOORS.values()] == [None, None]
    assert mock.mapped_by(DOORS[Behind.IOMMU]) is mock.mapped
    assert mock.mapped_by(DOORS[Behind.CONTAINER]) is None


def test_pages_are_those_of_the_files_own_context(make: Make) -> None:
    device = make(Settings(mock=True))
    mine, other = opened(device), opened(device)
    assert device.mapped is not None
    assert device.host.shown.show(mine.context, bytearray(4096)) is None, "nobody takes it yet"
    told: list[tuple[int, bytes]] = []
    device.mapped.begin(lambda offset, content: told.append((offset, content)))
    memory = bytearray(b"shown".ljust(2 * 4096, b"\0"))
    shown = device.host.shown.show(mine.context, memory)
    assert shown is not None
    assert told == [(shown[0], bytes(memory))]
    assert device.mapped.page_in(mine, ourselves(), shown[0] + 2, 3) == b"own"
    for file, offset in ((other, shown[0]), (object(), shown[0]), (mine, shown[0] + 2 * 4096)):
        with pytest.raises(OSError) as refused:
            device.mapped.page_in(file, ourselves(), offset, 3)  # type: ignore[arg-type]
        assert refused.value.errno == EINVAL
    device.mapped.page_out(shown[0] + 4096, b"back")
    assert memory[4096:4100] == b"back"
    device.host.shown.hide(shown[0])
    device.mapped.page_out(shown[0], b"late")
    for one in (mine, other):
        one.release()
