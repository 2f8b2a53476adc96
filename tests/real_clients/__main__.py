"""`make clients`: programs of others, unmodified, on emulated devices (edu, ioat,
virtio-blk), as root and as an ordinary user.

Exit status: 0 all pass, 1 not, 77 they cannot be had on this machine (the last line on stderr says
why).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Final

from tests.debian import NotHere
from tests.support import ROOT, lacking

from . import dpdk, guest, kernels, qemu, qemu_io
from .linux_guest import rows as linux_guest
from .users import Check, User, users

PLACE: Final = ROOT / "build" / "real_clients"
BDF: Final = "0000:e0:00.0"
SECONDS: Final = 180.0
NOT_HERE: Final = 77
# How a QEMU gets the device: keys of the device, a shell script that runs QEMU's command, and
# options of iommud.
OPEN: Final = f"exec 9<>/dev/vfio/devices/$(ls /sys/bus/pci/devices/{BDF}/vfio-dev); "
DEVICE: Final = 'exec "$@" -object iommufd,id=iommufd0 -device vfio-pci,id=edu,iommufd=iommufd0,'
WAYS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "fd=": ("", f"{OPEN}{DEVICE}fd=9", ()),
    "fd=, its BAR not mapped": (",mmap=off", f"{OPEN}{DEVICE}fd=9", ()),
    "host=": ("", f"{DEVICE}host={BDF}", ("--chardev",)),
}
COPIES: Final = ((64, 1), (64, 32), (4096, 1), (4096, 32), (65280, 1), (65280, 32))  # bytes, at a doorbell


def main() -> int:
    parser = argparse.ArgumentParser(prog="make clients", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("only", nargs="*", metavar="WORD", help="only the checks whose names have one of these words")
    parser.add_argument("--times", type=int, default=1, help="each so often (default: 1)")
    parser.add_argument("--load", type=int, default=0, metavar="N", help="with N busy loops beside (default: none)")
    parser.add_argument(
        "--rounds", type=int, default=linux_guest.FEW, metavar="N", help="kills of each kind (default: %(default)s)"
    )
    parser.add_argument("--brief", action="store_true", help="without DPDK's, and most of Linux's, which take minutes")
    options = parser.parse_args()
    passed = failed = 0
    try:
        for name, check in _checks(options.brief, options.rounds):
            if options.only and not any(word in name for word in options.only):
                continue
            with _load(options.load):
                good = _repeat(name, check, options.times)
            passed, failed = passed + good, failed + options.times - good
    except NotHere as reason:
        print(f"real clients: not run here: {reason}", file=sys.stderr)
        return NOT_HERE
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def _checks(brief: bool, rounds: int) -> Iterator[Check]:
    yield from kernels.checks(PLACE / "selftests")
    yield from _qemus()
    yield from _qemu_ios()
    yield from linux_guest.checks(PLACE / "linux_guest", rounds=rounds, brief=brief)
    if not brief:
        yield from _dpdks()


@contextmanager
def _load(loops: int) -> Iterator[None]:
    """Processes that do nothing but compute, each in a session of its own: the scheduler deals
    processors out to sessions.
    """
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(loops)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


def _repeat(name: str, check: Callable[[], str], times: int) -> int:
    """How often it passed. One line: what it said the last time; and one for each failure."""
    began, good, said = time.monotonic(), 0, ""
    for _ in range(times):
        try:
            said = check()
        except (AssertionError, subprocess.TimeoutExpired, OSError) as failure:
            print(f"FAIL {name}: {failure}", flush=True)
        else:
            good += 1
    if good:
        often = f", {good} of {times} times" if times > 1 else ""
        seconds = (time.monotonic() - began) / times
        print(f"ok   {name}{often} ({seconds:.1f} s){': ' if said else ''}{said}", flush=True)
    return good


def _qemus() -> Iterator[Check]:
    yield "guest on QEMU's own edu", lambda: _boot([*_machine(), "-device", "edu"])
    for user in users("--open", str(qemu.QEMU.root)):
        for way in WAYS:
            name = f"QEMU by {way}, as {user.name}"
            yield f"guest in {name}", partial(lambda user, way: _boot(_given(user, way)), user, way)
            yield f"bus of {name}", partial(lambda user, way: _drive(_given(user, way)), user, way)


@cache
def _machine() -> list[str]:
    """QEMU's command. QEMU is looked for when it is first needed. Raises NotHere."""
    command = qemu.command()
    print(f"QEMU {qemu.QEMU.version}", flush=True)
    return [*command, *guest.MACHINE]


def _given(user: User, way: str) -> list[str]:
    """A QEMU that gets the device in one of WAYS."""
    keys, script, options = WAYS[way]
    return user.run([f"edu,bdf={BDF}{keys}"], ["sh", "-ec", script, "sh", *_machine()], *options)


def _boot(command: list[str]) -> str:
    return guest.boot(command, _guest())[-1]


def _qemu_ios() -> Iterator[Check]:
    for user in users("--open", str(qemu_io.QEMU_IO.root)):
        for model, options in ("virtio-blk", ()), ("virtio-blk", kernels.TYPE1), ("nvme", kernels.TYPE1):
            where = ", on VFIO's own container" if options else ""
            yield f"qemu-io on {model}{where}, as {user.name}", partial(_patterns, user, model, options)


def _patterns(user: User, model: str, options: Sequence[str]) -> str:
    """What it writes is read, by it and in the file; and it notices what is not as it was."""
    patterns = qemu_io.Patterns(0)
    with _place() as place:
        file = place / "disk.img"
        device = f"{model},bdf={BDF},file={file},size={qemu_io.SIZE}"

        def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                user.run([device], command, *options),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"XDG_RUNTIME_DIR": str(place)},
                cwd="/",
            )

        untouched = f"read -P 0 0 {qemu_io.UNTOUCHED}"
        done = run(qemu_io.command(model, BDF, [*patterns.commands, untouched]))
        said = done.stdout + done.stderr
        assert not done.returncode, f"status {done.returncode}\n{said[-8000:]}"
        assert "failed" not in said, said[-8000:]
        assert qemu_io.checksum(file) == patterns.checksum, "the file is not what was written"
        qemu_io.spoil(file, qemu_io.UNTOUCHED // 2)
        assert qemu_io.checksum(file) != patterns.checksum
        done = run(qemu_io.command(model, BDF, [untouched]))
        assert done.returncode, "a wrong bit was not noticed"
        assert f"Pattern verification failed at offset 0, {qemu_io.UNTOUCHED} bytes" in done.stdout, done.stdout
        if model == "nvme" and user.may_lock(qemu_io.SIZE):  # it maps much at a time
            done = run(qemu_io.copy(BDF, place / "copy.img"))
            assert not done.returncode, done.stdout + done.stderr
            assert qemu_io.checksum(place / "copy.img") == qemu_io.checksum(file), "qemu-img copied something else"
    return f"{len(patterns.commands)} commands"


def _dpdks() -> Iterator[Check]:
    for user in users("--open", str(dpdk.DPDK.root)):
        for version in dpdk.TRIED:
            yield f"dpdk's dmadev_autotest on ioat {version}, as {user.name}", partial(_autotest, user, version)
        on_type1 = f"dpdk's dmadev_autotest on ioat {version}, on VFIO's own container, as {user.name}"
        yield on_type1, partial(_autotest, user, version, "--vfio", "type1")
        yield f"dpdk's dma-perf, as {user.name}", partial(_copies, user)
        yield f"dpdk-devbind, as {user.name}", partial(_devbind, user)


def _autotest(user: User, version: str, *options: str) -> str:
    # all of it is locked, and an ordinary user may lock 8 MiB
    said = _dpdk(user, f"ioat,version={version}", dpdk.autotest(BDF, 8 if user.before else 64), options=options)
    passed = dpdk.passed(said, BDF)
    missing = dpdk.TRIED[version] - passed
    assert not missing, f"not passed: {', '.join(sorted(missing))}\n{said[-8000:]}"
    return ", ".join(sorted(passed))


def _copies(user: User) -> str:
    # of larger ones an ordinary user may not lock as much as they take
    cases = [case for case in COPIES if not user.before or case[0] == 64]
    with _place() as place:
        performance = dpdk.Performance(place, BDF, cases, 8 if user.before else 64)
        rates = performance.copies(_dpdk(user, "ioat", performance.command, place))
    return "copies a second: " + ", ".join(
        f"{size} B by {kick} {rate:.0f}" for (size, kick), rate in zip(cases, rates, strict=True)
    )


def _devbind(user: User) -> str:
    """It lists the device, and binds it."""
    if why := lacking("pciutils"):
        raise NotHere(why)
    devbind = dpdk.devbind()
    script = f"{devbind} --status-dev dma && {devbind} --bind vfio-pci {BDF} && {devbind} --status-dev dma"
    for driver in "none", "ioatdma":  # nobody has it at first, or a kernel driver
        said = _dpdk(user, f"ioat,driver={driver}", ["sh", "-c", script])
        before, line = [line for line in said.splitlines() if line.startswith(BDF)]
        assert ("drv=ioatdma" in before) == (driver == "ioatdma"), said
        assert "drv=vfio-pci" in line, said
    return line


def _dpdk(
    user: User, device: str, command: Sequence[str], place: Path | None = None, options: Sequence[str] = ()
) -> str:
    """What it says, on stdout and then on stderr. `place`: where it may write. `options`: of
    iommud.
    """
    if place is None:
        with _place() as place:
            return _dpdk(user, device, command, place, options)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(place)}
    done = subprocess.run(
        user.run([f"{device},bdf={BDF}"], command, *options),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd="/",
    )
    said = dpdk.without_counts(done.stdout + done.stderr)
    assert not done.returncode, f"status {done.returncode}\n{said[-8000:]}"
    return said


@contextmanager
def _place() -> Iterator[Path]:
    """A directory where everybody may write."""
    with tempfile.TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@cache
def _guest() -> Path:
    return guest.build(PLACE / "guest")


def _drive(command: list[str]) -> str:
    with tempfile.TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        said = guest.drive(command, Path(name))
    return f"{len(said)} lines of its own" if said else ""


if __name__ == "__main__":
    sys.exit(main())
