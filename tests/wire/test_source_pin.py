"""What may be pinned: the table of mappings.py, whose answers are the kernel's own."""

import random

import pytest

from cuse_glue.errors import IoctlError
from cuse_glue.pins.pin import InFile
from cuse_glue.pins.source import Pin, Source, Sources

from .conftest import Client
from .mappings import CASES, HUGE, PAGE


def pin_case(name: str, client: Client, sources: Sources) -> tuple[Source, Pin | IoctlError, int]:
    """The pin or the refusal, and where the memory is; the source is held."""
    case = CASES[name]
    where = client.do(f"CASES[{name!r}].make()")
    if case.is_file:
        source = sources.file(client.caller(), where)
        where = case.start
    else:
        source = sources.address_space(client.caller())
    source.get()
    try:
        return source, source.pin(where, case.length, case.writable), where
    except IoctlError as refused:
        return source, refused, where


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_answer(name: str, client: Client, sources: Sources) -> None:
    source, got, _ = pin_case(name, client, sources)
    if isinstance(got, IoctlError):
        assert got.errno == CASES[name].expected, got.why
        assert got.why
    else:
        got.close()
        assert CASES[name].expected == 0
    source.put()


MAPPED_HERE = {"memfd, write", "memfd mapped r, read", "huge memfd, write", "FILE memfd", "FILE huge"}


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.expected == 0])
def test_what_is_mapped_here_is_the_clients(name: str, client: Client, sources: Sources) -> None:
    """By the addresses that a pin tells, its bytes are reached as through the pin."""
    case = CASES[name]
    source, pin, _ = pin_case(name, client, sources)
    assert isinstance(pin, Pin)
    at = PAGE if case.length > PAGE else 0
    place = pin.place(at)
    if place is not None:
        window, address, length, writable = place
        by_pin, direct = bytearray(8), memoryview(bytearray(8))
        assert length <= case.length - at
        if writable:
            assert window.write(address, memoryview(b"directly")) == 8
        assert window.read(address, direct) == 8
        pin.read_into(at, memoryview(by_pin))
        assert by_pin == direct
    if name in MAPPED_HERE or name.startswith("private"):
        assert (place is not None) == (name in MAPPED_HERE)
    pin.close()
    source.put()


def test_what_is_truly_pinned_is_asked(client: Client, sources: Sources) -> None:
    """A true pin keeps pages that the file may not have any more."""
    source, pin, _ = pin_case("FILE memfd", client, sources)
    assert isinstance(pin, Pin)
    found = pin.place(0)
    assert found is not None
    assert source.file is not None
    truly = Pin(source, [InFile(source.file, found[0], 0, PAGE)], truly=True)
    assert truly.place(0) is None
    truly.close()
    pin.close()
    source.put()


# Read-only for us although the kernel would write: see source.py.
SEALED = {"FILE memfd, opened to read, write", "FILE memfd, sealed, write", "FILE memfd, sealed later, write"}
UNREADABLE = {"FILE memfd, opened to write, read"}
GOOD = [name for name, case in CASES.items() if case.expected == 0]


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("name", GOOD)
def test_what_is_pinned_is_the_clients(name: str, client: Client, sources: Sources) -> None:
    """What the client writes is read, and what is written the client sees, byte by byte."""
    case = CASES[name]
    source, pin, where = pin_case(name, client, sources)
    assert isinstance(pin, Pin)
    assert pin.length == case.length
    got = memoryview(bytearray(case.length))
    if name in UNREADABLE:
        with pytest.raises(IoctlError):
            pin.read_into(0, got)
    elif case.writable and name not in SEALED:
        data = random.Random(1).randbytes(case.length - 100)
        pin.write_from(3, memoryview(data))
        pin.read_into(0, got)
        assert got[3 : 3 + len(data)] == data
        if not case.is_file and name != "private w, write":
            assert client.do(f"peek({where + 3}, {len(data)})") == data
    else:
        pin.read_into(0, got)
        if case.is_file:
            assert bytes(got) == bytes(case.length)
        else:
            assert bytes(got) == client.do(f"peek({where}, {case.length})")
        if name in SEALED:
            with pytest.raises(IoctlError, match="sealed"):
                pin.write_from(0, memoryview(b"x"))
    pin.close()
    source.put()


@pytest.fixture
def patchwork(client: Client) -> tuple[int, bytes]:
    """Eight pages of one range: private, shared, a memfd from its second page on, and private
    again.
    """
    at = client.do("at = anonymous(R | W, length=8 * PAGE)")
    at = client.do("at")
    client.do("map_(2 * PAGE, R | W, SHARED | ANONYMOUS | 0x10, address=at + 2 * PAGE)")
    client.do("map_(2 * PAGE, R | W, SHARED | 0x10, memfd(8 * PAGE), PAGE, address=at + 4 * PAGE)")
    data = random.Random(2).randbytes(8 * PAGE)
    client.do(f"poke(at, {data!r})")
    return at, data


def test_a_range_of_many_mappings(patchwork: tuple[int, bytes], client: Client, source: Source) -> None:
    at, data = patchwork
    pin = source.pin(at, 8 * PAGE, True)
    for offset, length in (0, 8 * PAGE), (PAGE + 5, 5 * PAGE), (2 * PAGE - 1, 2), (6 * PAGE - 1, PAGE), (100, 0):
        got = bytearray(length)
        pin.read_into(offset, memoryview(got))
        assert got == data[offset : offset + length]
    new = data[::-1]
    pin.write_from(PAGE + 7, memoryview(new)[: 6 * PAGE])
    expected = data[: PAGE + 7] + new[: 6 * PAGE] + data[7 * PAGE + 7 :]
    assert client.do(f"peek(at, {8 * PAGE})") == expected
    with pytest.raises(ValueError):
        pin.read_into(7 * PAGE + 1, memoryview(bytearray(PAGE)))
    pin.close()
    pin.close()


def test_half_a_pin_is_undone(patchwork: tuple[int, bytes], client: Client, source: Source) -> None:
    """The sources fixture sees that no window and no descriptor stays."""
    at, _ = patchwork
    client.do("unmap(at + 7 * PAGE, PAGE)")
    with pytest.raises(IoctlError, match=f"nothing is mapped at {at + 7 * PAGE:#x}"):
        source.pin(at, 8 * PAGE, True)
    source.pin(at, 7 * PAGE, True).close()


def test_identity(client: Client, source: Source, sources: Sources) -> None:
    """Two views of one memfd are the same pages, a private view is not; a copy in a forked child is
    not.
    """
    client.do("fd = memfd(8 * PAGE)")
    one, two = client.do("map_(4 * PAGE, R | W, SHARED, fd)"), client.do("map_(4 * PAGE, R, SHARED, fd, 2 * PAGE)")
    private, anonymous = client.do("map_(4 * PAGE, R | W, PRIVATE, fd)"), client.do("anonymous(R | W)")
    file = sources.file(client.caller(), client.do("fd"))
    file.get()
    pins = [source.pin(at, 4 * PAGE, False) for at in (one, two, private, anonymous)]
    pins.append(file.pin(2 * PAGE, 4 * PAGE, True))
    pages = {(number, page): pin.identity(page * PAGE) for number, pin in enumerate(pins) for page in range(4)}
    assert pages[0, 2] == pages[1, 0] == pages[4, 0]
    assert pages[0, 3] == pages[1, 1] == pages[4, 1]
    assert pages[1, 3] == pages[4, 3]
    assert len(set(pages.values())) == 20 - 2 * 2 - 2
    for number, at in enumerate((one, two, private, anonymous)):
        for page in range(4):
            assert sources.page_identity(client.caller(), at + page * PAGE + 5) == pages[number, page]
    assert sources.page_identity(client.caller(), one, write=True) == pages[0, 0]
    with pytest.raises(IoctlError):
        sources.page_identity(client.caller(), two, write=True)
    client.do(f"unmap({anonymous}, PAGE)")
    with pytest.raises(IoctlError):
        sources.page_identity(client.caller(), anonymous)
    for pin in pins:
        pin.close()
    file.put()


def test_stretches(client: Client, source: Source) -> None:
    """One for each mapping, each as `identity` says it, and all of the pin."""
    start = client.do("anonymous(R | W)")
    client.do("fd = memfd(8 * PAGE)")
    client.do(f"map_(PAGE, R | W, SHARED | 0x10, fd, 3 * PAGE, {start + 2 * PAGE})")  # MAP_FIXED
    pin = source.pin(start, 4 * PAGE, True)
    found = list(pin.stretches())
    assert [length for _, _, length, _ in found] == [2 * PAGE, PAGE, PAGE]
    assert [(memory, place) for memory, place, _, _ in found] == [pin.identity(at * PAGE) for at in (0, 2, 3)]
    assert {page_size for _, _, _, page_size in found} == {PAGE}
    assert found[1][1] == 3 * PAGE
    pin.close()


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("name", [name for name in GOOD if "huge" in name])
def test_stretches_of_huge_pages(name: str, client: Client, sources: Sources) -> None:
    source, pin, _ = pin_case(name, client, sources)
    assert isinstance(pin, Pin)
    [stretch] = pin.stretches()
    assert stretch == (*pin.identity(0), pin.length, HUGE)
    assert stretch[1] % HUGE == 0
    pin.close()
    source.put()


def test_identity_of_a_forked_child(client: Client, sources: Sources, source: Source) -> None:
    private, shared = client.do("anonymous(R | W)"), client.do("anonymous(R | W, SHARED)")
    read, write = client.do("os.pipe()")
    child = client.do(f"os.fork() or (os.close({write}), os.read({read}, 1), os._exit(0))")
    of_child = Client.caller(client, child)
    assert sources.page_identity(of_child, private) != sources.page_identity(client.caller(), private)
    assert sources.page_identity(of_child, shared) == sources.page_identity(client.caller(), shared)
    theirs = sources.address_space(of_child)
    theirs.get()
    assert theirs.mm != source.mm
    client.do(f"poke({private}, b'parent')")
    pins = theirs.pin(private, PAGE, True), source.pin(private, PAGE, True)
    pins[0].write_from(0, memoryview(b"child!"))
    got = bytearray(6)
    pins[1].read_into(0, memoryview(got))
    assert got == b"parent"
    assert client.do(f"peek({private}, 6)") == b"parent"
    for pin in pins:
        pin.close()
    client.do(f"os.close({write})")
    client.do(f"os.waitpid({child}, 0)")
    theirs.put()


def test_a_million_pins_of_one_memfd_are_one_window(client: Client, source: Source) -> None:
    client.do("fd = memfd(64 * PAGE)")
    at = client.do("map_(64 * PAGE, R | W, SHARED, fd)")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        before = len(maps.readlines())
    pins = [source.pin(at + n % 64 * PAGE, PAGE, True) for n in range(1000)]
    with open("/proc/self/maps", encoding="utf-8") as maps:
        after = len(maps.readlines())
    assert after - before < 20
    for pin in pins:
        pin.close()


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_past_the_end_at_first(client: Client, sources: Sources) -> None:
    """A file that grows after it was pinned is pinned in a second window; none of ours makes it
    grow.
    """
    fd = client.do(f"fd = memfd({HUGE}, MFD | MFD_HUGETLB)")
    fd = client.do("fd")
    source = sources.file(client.caller(), fd)
    source.get()
    first = source.pin(0, HUGE, True)
    assert client.do("os.fstat(fd).st_size") == HUGE
    client.do(f"os.ftruncate(fd, {3 * HUGE})")
    second = source.pin(HUGE, 2 * HUGE, True)
    assert client.do("os.fstat(fd).st_size") == 3 * HUGE
    second.write_from(2 * HUGE - 3, memoryview(b"end"))
    first.write_from(0, memoryview(b"begin"))
    assert client.do("os.pread(fd, 5, 0)") == b"begin"
    assert client.do(f"os.pread(fd, 3, {3 * HUGE - 3})") == b"end"
    first.close()
    second.close()
    source.put()
