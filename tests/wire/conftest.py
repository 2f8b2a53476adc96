"""Client processes, and the memory of them."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cuse_glue.pins.source import Source, Sources
from cuse_glue.request.caller import Caller, forget_threads

CLIENT = Path(__file__).with_name("client.py")
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE_PAGES_WANTED = 16


class Client:
    """A live process that does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self.answer()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def caller(self, tid: int = 0, uid: int | None = None) -> Caller:
        return Caller(tid or self.pid, os.geteuid() if uid is None else uid, 0)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        mark, _, text = self.process.stdout.readline().rstrip("\n").partition(" ")
        if mark == "~":
            pytest.skip(text)
        assert mark == "=", f"the client said {mark} {text}"
        return ast.literal_eval(text)

    def do(self, line: str) -> Any:
        """Evaluate `line` there; its value."""
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        """End it, and return when it has gone and been waited for."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.end()


@pytest.fixture
def another() -> Iterator[Client]:
    made = Client()
    yield made
    made.end()


def descriptors() -> list[str]:
    """What we have open, by what it is; the pipes to clients come and go."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass  # the listing's own
    return sorted(name for name in found if not name.startswith("pipe:"))


def windows() -> list[str]:
    """What we have mapped of files in memory, one line each, without the addresses."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted(
        line.split(" ", 1)[1] for line in lines if "memfd:" in line or "/dev/shm" in line or "deleted" in line
    )


@pytest.fixture
def sources() -> Iterator[Sources]:
    """And afterwards nothing may be left of it: no descriptor, no mapping."""
    forget_threads()
    before = descriptors(), windows()
    made = Sources()
    yield made
    made.forget_callers()
    assert (descriptors(), windows()) == before


@pytest.fixture
def source(client: Client, sources: Sources) -> Iterator[Source]:
    """The client's memory, held."""
    found = sources.address_space(client.caller())
    found.get()
    yield found
    found.put()


@pytest.fixture(scope="session")
def huge_pages() -> Iterator[None]:
    """There are huge pages for the test; afterwards there are as many as there were."""
    before = HUGE_PAGES.read_text()
    if int(before) < HUGE_PAGES_WANTED:
        HUGE_PAGES.write_text(str(HUGE_PAGES_WANTED))
    if int(HUGE_PAGES.read_text()) < HUGE_PAGES_WANTED:
        HUGE_PAGES.write_text(before)
        pytest.skip("the machine cannot give huge pages")
    yield
    HUGE_PAGES.write_text(before)
