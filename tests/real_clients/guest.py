"""QEMU with edu in it: driven by a guest program (guest.c), and from the machine's bus by QEMU's
own test protocol.
"""

import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.debian import NotHere
from tests.support import ROOT

HERE: Final = Path(__file__).resolve().parent
SECONDS: Final = 120.0
MACHINE: Final = ["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "4", "-accel", "tcg"]
DONE: Final = 2 * 16 + 1  # exit status of QEMU with a guest that is satisfied, and of nothing else
CODE: Final = ["-m32", "-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector", "-mgeneral-regs-only"]
LINK: Final = ["-nostdlib", "-static", "-Wl,--build-id=none"]
IDENTITY: Final = 0xED
SOMETHING: Final = 0x12345678
WORDS: Final = [0x0102_0304_0506_0708 * (at + 1) & (1 << 64) - 1 for at in range(8)]  # for DMA
MEMORY: Final = 0x200000  # of the guest's, which nobody uses: nothing is booted
MESSAGE: Final = 0x5A5A
BASE: Final = 0xE000_0000  # of the device's BAR


def build(into: Path) -> Path:
    """The guest. Raises NotHere, CalledProcessError."""
    if subprocess.run([str(ROOT / "scripts" / "need"), "gcc", "libc6-dev"], check=False).returncode:
        raise NotHere("the guest program needs gcc")
    into.mkdir(parents=True, exist_ok=True)
    script = f"-Wl,-T,{HERE / 'guest.ld'}"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *CODE, *warnings, *LINK, script, HERE / "guest.c", "-o", into / "guest"], check=True)
    return into / "guest"


def boot(qemu: list[str], guest: Path) -> list[str]:
    """What the guest said, but for where the device is. `qemu`: the command, with the device.
    AssertionError: it is not satisfied.
    """
    command = [*qemu, "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", "stdio", "-kernel", str(guest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    lines = done.stdout.splitlines()
    assert done.returncode == DONE, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return [line for line in lines if not line.startswith(("slot", "bar"))]


class Bus:
    """The bus of a machine that has not been started, by the protocol of qtest."""

    def __init__(self, qemu: list[str], place: Path) -> None:
        """`qemu`: the command, with the device."""
        self._listener = socket.socket(socket.AF_UNIX)
        path = str(place / "qtest")
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.settimeout(SECONDS)
        (place / "qtest").chmod(0o777)
        self._process = subprocess.Popen(
            [*qemu, "-S", "-qtest", f"unix:{path}", "-qtest-log", "none"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self._connection, _ = self._listener.accept()
        except TimeoutError:
            self._process.kill()
            raise AssertionError(self._process.communicate()[0]) from None
        self._connection.settimeout(SECONDS)
        self._answers = self._connection.makefile("r")

    def close(self) -> str:
        """End it; what it said meanwhile."""
        self._process.terminate()
        said, _ = self._process.communicate(timeout=SECONDS)
        self._answers.close()
        self._connection.close()
        self._listener.close()
        return said

    def ask(self, *words: str | int) -> int:
        """One command; the value of its answer, if it has one."""
        line = " ".join(word if isinstance(word, str) else f"{word:#x}" for word in words)
        self._connection.sendall(f"{line}\n".encode())
        answer = self._answers.readline().split()
        assert answer[:1] == ["OK"], f"{line}: {answer}"
        return int(answer[1], 16) if len(answer) > 1 else 0

    def config(self, slot: int, offset: int) -> int:
        """A word of 32 bits of configuration space."""
        self.ask("outl", 0xCF8, 0x8000_0000 | slot << 11 | offset)
        return self.ask("inl", 0xCFC)

    def set_config(self, slot: int, offset: int, value: int) -> None:
        """As `config`."""
        self.ask("outl", 0xCF8, 0x8000_0000 | slot << 11 | offset)
        self.ask("outl", 0xCFC, value)

    def wait_for(self, address: int, value: int) -> None:
        """Poll until the word at the address is `value`: nothing announces it."""
        until = time.monotonic() + SECONDS
        while (found := self.ask("readl", address)) != value:
            assert time.monotonic() < until, f"{found:#x} at {address:#x}, and never {value:#x}"


def drive(qemu: list[str], place: Path) -> list[str]:
    """Registers, DMA both ways and an MSI, from the bus; what QEMU said. AssertionError: it is not
    the device that it should be.
    """
    bus = Bus(qemu, place)
    try:
        (slot,) = (slot for slot in range(32) if bus.config(slot, 0) == 0x11E8_1234)
        bus.set_config(slot, 0x10, BASE)
        bus.set_config(slot, 4, 6)  # memory, bus master
        _use_registers(bus)
        _copy(bus)
        _interrupt(bus, slot)
    finally:
        said = bus.close()
    return said.splitlines()


def _use_registers(bus: Bus) -> None:
    assert bus.ask("readl", BASE) & 0xFF == IDENTITY
    bus.ask("writel", BASE + 4, SOMETHING)
    assert bus.ask("readl", BASE + 4) == SOMETHING ^ 0xFFFF_FFFF
    bus.ask("writel", BASE + 8, 10)
    while bus.ask("readl", BASE + 0x20) & 1:
        pass
    assert bus.ask("readl", BASE + 8) == 3628800


def _copy(bus: Bus) -> None:
    for at, word in enumerate(WORDS):
        bus.ask("writeq", MEMORY + 8 * at, word)
    for source, destination, command in (MEMORY, 0x40000, 1), (0x40000, MEMORY + 4096, 3):
        for offset, value in (0x80, source), (0x88, destination), (0x90, 64), (0x98, command):
            bus.ask("writeq", BASE + offset, value)
        while bus.ask("readl", BASE + 0x98) & 1:
            pass
    assert [bus.ask("readq", MEMORY + 4096 + 8 * at) for at in range(8)] == WORDS


def _interrupt(bus: Bus, slot: int) -> None:
    """The message goes to memory, where we see it come."""
    msi = bus.config(slot, 0x34) & 0xFC
    while bus.config(slot, msi) & 0xFF != 5:
        msi = bus.config(slot, msi) >> 8 & 0xFC
    wide = bus.config(slot, msi) >> 16 & 0x80
    bus.set_config(slot, msi + 4, MEMORY + 8192)
    bus.set_config(slot, msi + 8, 0)
    bus.set_config(slot, msi + (12 if wide else 8), MESSAGE)
    bus.set_config(slot, msi, bus.config(slot, msi) & ~0x70_0000 | 1 << 16)
    bus.ask("writel", BASE + 0x60, 0x21)
    bus.wait_for(MEMORY + 8192, MESSAGE)
    assert bus.ask("readl", BASE + 0x24) == 0x21
    bus.ask("writel", BASE + 0x64, 0x21)
    assert bus.ask("readl", BASE + 0x24) == 0
