"""What is shown of two files to a program that cannot be traced."""

from collections.abc import Callable, Iterator

import pytest

from cuse_glue.mmio.showing import PAGE, Showing


class Registers:
    """A page of zeros, and the stores to it."""

    def __init__(self) -> None:
        self.stores: list[tuple[int, int, int]] = []

    def load(self, offset: int, size: int) -> int:
        return 0

    def store(self, offset: int, size: int, value: int) -> None:
        self.stores.append((offset, size, value))

    def peek(self, offset: int, size: int) -> bytes | None:
        return bytes(size)


class Fault:
    """A thread that waits for a page."""

    tid = 1

    def __init__(self) -> None:
        self.take_back: Callable[[int, int], None] = lambda offset, length: None

    def refuse(self) -> None:
        pass


@pytest.fixture
def showing() -> Iterator[Showing]:
    showing = Showing()
    yield showing
    showing.close()


def test_a_page_that_comes_back_is_a_store_to_the_device_of_its_file(showing: Showing) -> None:
    one, other = Registers(), Registers()
    for file, device in ("one", one), ("other", other):
        assert showing.show(Fault(), file, PAGE, PAGE, device) == bytes(PAGE)
    showing.page_out("one", PAGE, bytes(4) + b"\x05" + bytes(PAGE - 5))
    assert (one.stores, other.stores) == ([(PAGE + 4, 1, 5)], [])
    showing.page_out("other", PAGE, b"\x01\x02" + bytes(PAGE - 2))
    assert (len(one.stores), other.stores) == (1, [(PAGE, 2, 0x0201)])


def test_what_was_never_shown_is_nobodys(showing: Showing) -> None:
    device = Registers()
    showing.show(Fault(), "one", 0, PAGE, device)
    showing.page_out("one", PAGE, b"\x01" * PAGE)
    showing.page_out("other", 0, b"\x01" * PAGE)
    assert device.stores == []
