"""The other ways to the same answers: older kernels, fewer rights, no descriptors left; and who is
who.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cuse_glue.errors import IoctlError
from cuse_glue.pins.client_file import FileCache
from cuse_glue.pins.source import Pin, Source, Sources
from cuse_glue.process import raw_memory, vma
from cuse_glue.process.vma import AddressSpaceGone, Maps
from cuse_glue.request import mm_cache
from cuse_glue.request.address_space import Mm
from cuse_glue.request.caller import Caller
from cuse_glue.request.mm_cache import MmCache
from tests.support import AS_NOBODY, ROOT

from .conftest import Client, descriptors
from .mappings import CASES, PAGE
from .test_source_pin import pin_case

NO_SUCH_IOCTL = 0xC06866FF


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without PROCMAP_QUERY."""
    monkeypatch.setattr(vma, "_PROCMAP_QUERY", NO_SUCH_IOCTL)


def read(pin: Pin, offset: int, length: int) -> bytes:
    got = bytearray(length)
    pin.read_into(offset, memoryview(got))
    return bytes(got)


@pytest.mark.usefixtures("huge_pages", "old_kernel")
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_answer_on_an_old_one(name: str, client: Client, sources: Sources) -> None:
    source, got, _ = pin_case(name, client, sources)
    assert (got.errno if isinstance(got, IoctlError) else 0) == CASES[name].expected
    if isinstance(got, Pin):
        got.close()
    source.put()


def nobody_else() -> int:
    raise ProcessLookupError(errno.ESRCH, "no other thread")


def test_text_and_query_agree(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.do("map_(4 * PAGE, R, SHARED, memfd(8 * PAGE), PAGE); protect(anonymous(R | W), PAGE, NONE)")
    maps = Maps(os.open(f"/proc/{client.pid}/maps", os.O_RDONLY | os.O_CLOEXEC), nobody_else)
    end = 1 << 47
    asked = maps.covering(0, end)
    middle = asked[len(asked) // 2]
    pieces = [(0, end), (middle.start, middle.end), (middle.start + PAGE, middle.start + PAGE + 1), (0, asked[0].start)]
    answers = [maps.covering(*piece) for piece in pieces]
    monkeypatch.setattr(vma, "_PROCMAP_QUERY", NO_SUCH_IOCTL)
    assert [maps.covering(*piece) for piece in pieces] == answers
    assert len(asked) > 10
    assert answers[3] == []
    client.end()
    for number in NO_SUCH_IOCTL, 0xC0686611:
        monkeypatch.setattr(vma, "_PROCMAP_QUERY", number)
        maps._text = False
        with pytest.raises(AddressSpaceGone):
            maps.covering(0, end)
    maps.close()


@pytest.mark.usefixtures("old_kernel")
def test_a_loss_on_an_old_kernel(client: Client, source: Source) -> None:
    client.do("at = anonymous(R | W)")
    pin = source.pin(client.do("at"), 4 * PAGE, True)
    assert read(pin, 0, 4 * PAGE) == bytes(4 * PAGE)
    client.do("unmap(at + PAGE, PAGE)")
    with pytest.raises(IoctlError, match="has unmapped"):
        read(pin, 0, 4 * PAGE)
    client.end()
    with pytest.raises(IoctlError, match="has exited"):
        read(pin, 0, PAGE)
    pin.close()


def not_permitted(mm: Mm, start: int, end: int) -> int:
    raise PermissionError(errno.EPERM, "no CAP_SYS_ADMIN")


def test_shared_memory_that_is_found_among_the_descriptors(
    client: Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mapped may not be opened by its mapping; the process has it open as well."""
    monkeypatch.setattr(Mm, "map_file", not_permitted)
    client.do("others = [memfd(PAGE) for _ in range(20)]")
    client.do("fd = memfd(4 * PAGE)")
    at = client.do("map_(4 * PAGE, R | W, SHARED, fd)")
    pin = source.pin(at, 4 * PAGE, True)
    client.do(f"poke({at}, b'old')")
    client.do(f"unmap({at}, 4 * PAGE)")
    assert read(pin, 0, 3) == b"old"
    pin.write_from(0, memoryview(b"new"))
    assert client.do("os.pread(fd, 3, 0)") == b"new"
    pin.close()


def test_it_is_searched_for_among_so_many_descriptors(
    client: Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mm, "map_file", not_permitted)
    monkeypatch.setattr("cuse_glue.request.address_space.SEARCHED", 20)
    client.do("others = [memfd(PAGE) for _ in range(20)]")
    at = client.do("map_(4 * PAGE, R | W, SHARED, memfd(4 * PAGE))")
    pin = source.pin(at, 4 * PAGE, True)
    client.do(f"unmap({at}, 4 * PAGE)")
    with pytest.raises(IoctlError, match="has unmapped"):
        read(pin, 0, PAGE)
    pin.close()


def test_shared_memory_that_may_not_be_opened(client: Client, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reached in the process, and lost like private memory."""
    monkeypatch.setattr(Mm, "map_file", not_permitted)
    monkeypatch.setattr(Mm, "descriptors", lambda mm: iter(()))
    client.do("fd = memfd(4 * PAGE)")
    at, other = client.do("map_(4 * PAGE, R | W, SHARED, fd)"), client.do("map_(4 * PAGE, R | W, SHARED, fd)")
    pin = source.pin(at, 4 * PAGE, True)
    pin.write_from(5, memoryview(b"through the process"))
    assert client.do(f"peek({other + 5}, 19)") == b"through the process"
    same = source.pin(other, 4 * PAGE, True)
    assert pin.identity(PAGE) == same.identity(PAGE)
    same.close()
    client.do("os.ftruncate(fd, PAGE)")
    with pytest.raises(IoctlError, match=f"no page at {at + PAGE:#x}"):
        read(pin, 0, 4 * PAGE)
    client.do(f"unmap({at}, 4 * PAGE)")
    with pytest.raises(IoctlError, match="has unmapped"):
        read(pin, 0, PAGE)
    pin.close()


UNPRIVILEGED = """
import os, sys
sys.path.insert(0, {root!r})
from cuse_glue.errors import IoctlError
from cuse_glue.pins.source import Sources
from tests.wire.conftest import Client
from tests.wire.mappings import PAGE
assert os.geteuid() != 0
client, sources = Client(), Sources()
source = sources.address_space(client.caller())
source.get()
for text in "anonymous(R | W)", "map_(4 * PAGE, R | W, SHARED, memfd(4 * PAGE))", "anonymous(R | W, SHARED)":
    at = client.do(text)
    pin = source.pin(at, 4 * PAGE, True)
    pin.write_from(PAGE - 3, memoryview(b"nobody"))
    print(client.do(f"peek({{at + PAGE - 3}}, 6)"))
    client.do(f"unmap({{at}}, PAGE)")
    try:
        pin.read_into(0, memoryview(bytearray(2 * PAGE)))
        print("held")
    except IoctlError as refused:
        print(refused.why.replace(str(client.pid), "N").replace(hex(at), "AT"))
    pin.close()
file = sources.file(client.caller(), client.do("memfd(4 * PAGE)"))
file.get()
pin = file.pin(0, 4 * PAGE, True)
pin.write_from(0, memoryview(b"nobody"))
pin.close()
file.put()
source.put()
client.end()
print("end")
"""


@pytest.mark.usefixtures("root")
def test_as_nobody() -> None:
    """Without any capability, for a client of the same user."""
    command = [*AS_NOBODY, sys.executable, "-c", UNPRIVILEGED.format(root=str(ROOT))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lost = "process N has unmapped the memory at AT"
    assert done.stdout.splitlines() == ["b'nobody'", lost, "b'nobody'", "held", "b'nobody'", lost, "end"], done.stderr


def test_a_file_system_that_could_make_us_wait(client: Client, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are not opened; not even their size is asked for."""

    def mapped(*_: object) -> None:
        raise AssertionError("opened")

    mounts = Path(f"/proc/{client.pid}/mountinfo").read_bytes()
    at = client.do("map_(4 * PAGE, R | W, SHARED, file(4 * PAGE, '/dev/shm'))")
    dev = os.stat("/dev/shm").st_dev
    row = next(line for line in mounts.splitlines() if line.split()[2] == b"%d:%d" % (os.major(dev), os.minor(dev)))
    monkeypatch.setattr(Mm, "thread_file", lambda mm, name, real=Mm.thread_file: real(mm, name).replace(row, fuse(row)))
    monkeypatch.setattr(FileCache, "mapped", mapped)
    client.do(f"poke({at}, b'fuse')")
    pin = source.pin(at, 4 * PAGE, False)
    assert read(pin, 0, 4) == b"fuse"
    with pytest.raises(IoctlError, match=r"a file of fuse\.x is mapped shared at .*: it is written back"):
        source.pin(at, 4 * PAGE, True)
    pin.close()


def fuse(row: bytes) -> bytes:
    before, _, after = row.partition(b" - tmpfs ")
    assert after
    return before + b" - fuse.x " + after


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "text",
    [
        "map_(4 * PAGE, R | W, SHARED, memfd(4 * PAGE))",
        "map_(4 * PAGE, R | W, SHARED, file(4 * PAGE, '/dev/shm'))",
        "map_(4 * PAGE, R | W, PRIVATE, file(4 * PAGE))",
        "_device('/dev/zero', R | W, PRIVATE)",
    ],
)
def test_no_descriptor_is_left(text: str, client: Client, sources: Sources, source: Source) -> None:
    """ENOMEM, and the client is not taken for dead; private memory does not need any."""
    private, at = client.do("anonymous(R | W, length=1 << 20)"), client.do(text)
    source.pin(at, 4 * PAGE, True).close()
    with no_more_descriptors():
        with pytest.raises(IoctlError, match="Too many open files") as caught:
            source.pin(at, 4 * PAGE, True)
        pin = source.pin(private, 1 << 20, True)
        pin.write_from(0, memoryview(b"x" * (1 << 20)))
        assert read(pin, 0, 1 << 20) == b"x" * (1 << 20)
        with pytest.raises(IoctlError, match="no descriptors left") as other:
            sources.address_space(client.caller(os.getpid()))
    assert caught.value.errno == errno.ENOMEM
    assert other.value.errno == errno.ENOMEM
    assert sources.address_space(client.caller()) is source
    pin.close()


@pytest.mark.parametrize("failing", range(1, 4))
def test_no_mapping_is_left(failing: int, client: Client, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th window of a range fails: the ones before it are let go (the sources fixture
    looks).
    """
    at = client.do("anonymous(R | W, length=3 * PAGE)")
    for page in range(3):
        client.do(f"map_(PAGE, R | W, SHARED | 0x10, memfd(PAGE), address={at + page * PAGE})")
    calls = 0
    real = raw_memory.map_shared

    def map_shared(fd: int, offset: int, length: int, *, writable: bool) -> int:
        nonlocal calls
        calls += 1
        if calls >= failing:
            raise OSError(errno.ENOMEM, "no room")
        return real(fd, offset, length, writable=writable)

    with monkeypatch.context() as patched:
        patched.setattr(raw_memory, "map_shared", map_shared)
        with pytest.raises(IoctlError, match="no room") as caught:
            source.pin(at, 3 * PAGE, True)
    assert caught.value.errno == errno.ENOMEM
    source.pin(at, 3 * PAGE, True).close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_short_of_means_for_a_moment(
    number: int, client: Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared memory is not taken for memory that may not be opened: it would not stay."""

    def map_file(mm: Mm, start: int, end: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Mm, "map_file", map_file)
    at = client.do("map_(4 * PAGE, R | W, SHARED, memfd(4 * PAGE))")
    with pytest.raises(IoctlError) as caught:
        source.pin(at, 4 * PAGE, True)
    assert caught.value.errno == errno.ENOMEM


def test_closing_twice(client: Client, sources: Sources, source: Source) -> None:
    """Or a pin that is closed by two: nothing that others hold is let go."""
    pin = source.pin(client.do("anonymous(R | W)"), 4 * PAGE, True)
    for _ in range(3):
        pin.close()
    sources.forget_callers()
    assert source.alive()


@pytest.fixture(scope="session")
def shared_mm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """helpers/shared_mm.c"""
    program = tmp_path_factory.mktemp("helpers") / "shared_mm"
    source = Path(__file__).parent / "helpers" / "shared_mm.c"
    flags = ["-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run([shutil.which("cc") or "gcc", *flags, source, "-o", program], check=True)
    return str(program)


def test_two_processes_with_one_address_space(shared_mm: str, sources: Sources) -> None:
    """One executes another program: the address space lives on, but that process is not a way to it
    any more.
    """
    place, length = 0x500000000000, 1 << 20
    with subprocess.Popen([shared_mm], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = Caller(int(parent.stdout.readline()), 0, 0)
        first = sources.address_space(child)
        first.get()
        pin = first.pin(place, length, True)
        assert read(pin, 0, length) == b"a" * length
        print("execute", file=parent.stdin, flush=True)
        assert parent.stdout.readline() == "second\n"
        second = sources.address_space(child)
        assert second.mm != first.mm
        assert first.alive()
        assert read(pin, 0, length) == b"a" * length
        pin.write_from(0, memoryview(b"A" * length))
        print("end", file=parent.stdin, flush=True)
        assert parent.stdout.readline() == "Ab\n"
    assert not first.alive()
    pin.close()
    first.put()


def test_who_is_who(client: Client, another: Client, sources: Sources, source: Source) -> None:
    assert sources.address_space(client.caller()) is source
    assert sources.address_space(another.caller()).mm != source.mm
    of_user = sources.address_space(client.caller(uid=4711))
    assert of_user is not source
    assert of_user.mm == source.mm
    assert of_user.uid == 4711
    fd = client.do("fd = memfd(4 * PAGE)") or client.do("fd")
    file = sources.file(client.caller(), fd)
    file.get()
    assert sources.file(client.caller(), client.do("os.dup(fd)")) is file
    assert file.is_file
    assert not source.is_file
    assert file.mm == source.mm
    file.put()
    client.tell("execute()")
    assert client.answer() == "ready"
    assert sources.address_space(client.caller()).mm != source.mm
    assert not source.alive()


def test_the_same_program_without_randomization(sources: Sources) -> None:
    """An exec that changes neither the pid nor the auxiliary vector is another address space all
    the same.
    """
    personality = "import ctypes; ctypes.CDLL(None).personality(0x40000)"
    client = Client()
    client.do(personality)
    auxv = []
    found = []
    for _ in range(2):
        client.tell("execute()")
        assert client.answer() == "ready"
        source = sources.address_space(client.caller())
        source.get()
        found.append(source)
        auxv.append(source.mm.auxv)
    assert found[0].mm != found[1].mm
    assert auxv[0] == auxv[1]
    assert [source.alive() for source in found] == [False, True]
    for source in found:
        source.put()
    client.end()


def test_descriptors_of_a_client(client: Client, sources: Sources) -> None:
    """EBADF: none, and one that only names a file; what the client does with it later changes
    nothing.
    """
    client.do("fd = memfd(4 * PAGE)")
    for number in (client.do("os.open('/tmp', os.O_PATH)"), 9999):
        with pytest.raises(OSError) as caught:
            sources.file(client.caller(), number)
        assert caught.value.errno == errno.EBADF
    source = sources.file(client.caller(), client.do("fd"))
    source.get()
    client.do("os.pwrite(fd, b'kept', 0)")
    client.end()
    pin = source.pin(0, 4 * PAGE, True)
    assert read(pin, 0, 4) == b"kept"
    source.put()
    assert read(pin, 0, 4) == b"kept", "the pin keeps its source"
    pin.close()


def test_a_process_that_is_gone(client: Client, sources: Sources) -> None:
    client.end()
    with pytest.raises(OSError):
        sources.address_space(client.caller())


def test_many_clients_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last few are remembered."""
    monkeypatch.setattr(mm_cache, "CACHED", 2)
    before = descriptors()
    cache = MmCache()
    clients = [Client() for _ in range(4)]
    for each in clients:
        cache.of(each.caller())
    most = len(descriptors())
    for each in clients:
        held = cache.of(each.caller())
    assert len(descriptors()) == most
    assert most == len(before) + 2 * 5
    held.get()
    cache.close()
    assert held.alive()
    held.put()
    for each in clients:
        each.end()
    assert descriptors() == before
