"""Descriptors that were given, and how a client's number leads back to them."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from errno import EBADFD, EINVAL, EMFILE, ENFILE, ENOMEM, ENOTTY, EPERM
from select import POLLIN, POLLOUT
from typing import Any

import cffi
import pytest

from cuse_glue.request.mark import Mark
from iommud.engine.device.context import Context
from iommud.errors import IoctlError
from iommud.file.descriptors import DescriptorBook, GivenFile
from iommud.file.no_data import ALWAYS_READY
from iommud.ops.request import Request
from iommud.uapi.layout import layout

from .ourselves import Given, TwinInjector, ourselves

F_OFD_SETLK = 37
ffi = cffi.FFI()


class Behind:
    """What stands behind a descriptor."""

    released = 0

    def release(self) -> None:
        self.released += 1


class Desk:
    """A book, and a request whose struct lies in this process: eight bytes."""

    def __init__(self) -> None:
        self.injector = TwinInjector()
        made: Any = DescriptorBook
        self.book: DescriptorBook = made(self.injector)
        self.struct = ffi.new("char[8]", b"\xee" * 7)
        address = int(ffi.cast("uintptr_t", self.struct))
        book: Any = self.book
        self.request = Request(Context(), ourselves(), book, book, layout("iommu_destroy"), address, 8, None)

    async def give(self, behind: Behind, field: int | None = 4, **how: Any) -> Given:
        await self.book.give(self.request, behind, field, **how)
        return self.injector.given[-1]

    def behind(self, number: int) -> object:
        return self.book.behind(ourselves(), number)

    def refusal(self, number: int) -> IoctlError:
        with pytest.raises(IoctlError) as refused:
            self.behind(number)
        return refused.value


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    for given in made.injector.given:
        os.close(given.number)


async def test_a_number_leads_back_to_what_was_given(desk: Desk) -> None:
    """Also a duplicate's, and also when others were given before and after."""
    things = [Behind() for _ in range(3)]
    numbers = [(await desk.give(thing)).number for thing in things]
    assert [desk.behind(number) for number in numbers] == things
    again = os.dup(numbers[1])
    assert desk.behind(again) is things[1]
    os.close(again)
    assert len({given.mark.place for given in desk.injector.given if given.mark is not None}) == 3


async def test_the_number_is_written_where_it_belongs(desk: Desk) -> None:
    given = await desk.give(Behind(), 4)
    assert bytes(ffi.buffer(desk.struct)) == b"\xee" * 4 + given.number.to_bytes(4, "little")
    assert (given.flags, given.no_room) == (os.O_RDWR | os.O_CLOEXEC, ENOMEM)
    before = bytes(ffi.buffer(desk.struct))
    given = await desk.give(Behind(), None, flags=os.O_RDONLY, no_room=EMFILE)
    assert bytes(ffi.buffer(desk.struct)) == before, "it is the answer"
    assert (given.flags, given.no_room) == (os.O_RDONLY, EMFILE)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [(os.O_RDONLY, fcntl.F_RDLCK), (os.O_RDWR | os.O_CLOEXEC, fcntl.F_RDLCK), (os.O_WRONLY, fcntl.F_WRLCK)],
)
async def test_the_mark_is_one_that_the_open_mode_allows(desk: Desk, flags: int, kind: int) -> None:
    given = await desk.give(Behind(), flags=flags)
    assert given.mark is not None
    assert given.mark.kind == kind
    assert given.mark.place > 0
    assert desk.behind(given.number) is not None


async def test_what_is_none_of_ours(desk: Desk) -> None:
    number = os.memfd_create("other")
    for asked in (number, 1 << 30):
        refusal = desk.refusal(asked)
        assert (refusal.errno, "is none that was given" in refusal.why) == (EBADFD, True), "and nobody looks"
    given = await desk.give(Behind())
    assert given.mark is not None
    assert "is none that was given" in desk.refusal(number).why
    Mark(given.mark.place + 1, fcntl.F_RDLCK).put_on(number)
    assert desk.refusal(number).errno == EBADFD
    os.close(number)
    for missing in (number, -1, 1 << 30, -(1 << 31)):
        refusal = desk.refusal(missing)
        assert (refusal.errno, refusal.why) == (EBADFD, f"the caller has no descriptor {missing}")


async def test_another_lock_at_its_place_is_no_mark(desk: Desk) -> None:
    """Of a process, which anybody can have; or longer than a byte."""
    given = await desk.give(Behind())
    assert given.mark is not None
    number = os.memfd_create("other")
    fcntl.lockf(number, fcntl.LOCK_SH, 1, given.mark.place)
    assert desk.refusal(number).errno == EBADFD
    fcntl.lockf(number, fcntl.LOCK_UN)
    two_bytes = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, given.mark.place, 2, 0)
    fcntl.fcntl(number, F_OFD_SETLK, two_bytes)
    assert desk.refusal(number).errno == EBADFD
    os.close(number)


async def test_who_takes_the_mark_off_loses_it(desk: Desk) -> None:
    given = await desk.give(Behind())
    assert given.mark is not None
    Mark(given.mark.place, fcntl.F_UNLCK).put_on(given.number)
    assert desk.refusal(given.number).errno == EBADFD


async def test_the_last_close_forgets_it(desk: Desk) -> None:
    behind = Behind()
    given = await desk.give(behind)
    other = (await desk.give(Behind())).number
    given.file.release()
    assert behind.released == 1
    assert desk.refusal(given.number).errno == EBADFD
    assert desk.behind(other) is not None


@pytest.mark.parametrize("errno", [EMFILE, ENFILE])
async def test_our_own_descriptors_run_out(desk: Desk, monkeypatch: pytest.MonkeyPatch, errno: int) -> None:
    """That is no answer to the client's question."""
    given = await desk.give(Behind())

    def none_is_left(*_: Any, **__: Any) -> None:
        raise OSError(errno, "none is left")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", none_is_left)
        with pytest.raises(OSError, match="none is left") as refused:
            desk.behind(given.number)
    assert refused.value.errno == errno


async def test_one_that_could_not_be_given(desk: Desk) -> None:
    behind = Behind()
    desk.injector.refusal = IoctlError(EPERM, "it is traced")
    with pytest.raises(IoctlError, match="EPERM: it is traced"):
        await desk.give(behind)
    assert behind.released == 1


async def test_a_file_is_given_as_it_is(desk: Desk) -> None:
    """Without a mark: nobody asks for it by its number."""
    file: Any = GivenFile(Behind(), lambda: None)
    fill: Callable[[int], bytes] = lambda number: b"\1\2" + number.to_bytes(2, "little")  # noqa: E731
    await desk.book.give_file(desk.request, file, 0, fill)
    (given,) = desk.injector.given
    assert given.file is file
    assert (given.mark, given.no_room, given.flags) == (None, EMFILE, os.O_RDWR | os.O_CLOEXEC)
    assert bytes(ffi.buffer(desk.struct))[:4] == b"\1\2" + given.number.to_bytes(2, "little")


async def test_what_a_given_descriptor_answers() -> None:
    """Nothing; but it is always ready, as the kernel's that have no poll of their own."""
    done: list[str] = []
    behind = Behind()
    file = GivenFile(behind, lambda: done.append("forgotten"))
    assert await file.ioctl(ourselves(), 1, 2) == -ENOTTY
    for call in (file.read(ourselves(), 0, 9, True), file.write(ourselves(), 0, b"x", True)):
        with pytest.raises(OSError) as refused:
            await call
        assert refused.value.errno == EINVAL
    assert file.poll(lambda: None) == ALWAYS_READY
    assert ALWAYS_READY & (POLLIN | POLLOUT) == POLLIN | POLLOUT
    file.release()
    assert (done, behind.released) == (["forgotten"], 1)
