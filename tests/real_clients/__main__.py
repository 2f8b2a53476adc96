"""`make clients`: programs of others, unmodified, on emulated devices (edu, ioat), as root and as
an ordinary user.

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
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

from tests.debian import NotHere
from tests.kernel_selftest import source
from tests.kernel_selftest.tap import Outcome, Result, parse
from tests.support import AS_NOBODY, IOMMUD, ROOT, lacking

from . import dpdk, guest, qemu, selftests

PLACE: Final = ROOT / "build" / "real_clients"
BDF: Final = "0000:e0:00.0"
SECONDS: Final = 180.0
NOT_HERE: Final = 77
# What each of the kernel's selftests says on edu, which has neither a reset nor MSI-X; the same on
# Linux 7.3's own vfio-pci, with QEMU's edu behind an emulated VT-d.
SKIPPED: Final = {
    "vfio_pci_device_test.reset": "Device does not support reset",
    "vfio_pci_irq_test.msix.enable_trigger_disable": "MSI-x: not supported",
}
NO_HUGE_PAGES: Final = "mmap() failed"
MODELS: Final = {"vfio_pci_driver_test": "ioat"}  # that have a driver in the selftests; else edu
LARGE: Final = ("vfio_pci_driver_test",)  # maps a GiB, which RLIMIT_MEMLOCK forbids an ordinary user
# Of these programs only the variants for iommufd's own interface run.
VARIANTS: Final = {
    "vfio_dma_mapping_test": (
        "iommufd",
        "iommufd_anonymous",
        "iommufd_anonymous_hugetlb_2mb",
        "iommufd_anonymous_hugetlb_1gb",
    ),
    "vfio_dma_mapping_mmio_test": ("iommufd",),
    "vfio_pci_device_init_perf_test": ("iommufd",),
}
# With all their variants they run on VFIO's own container, as on a distribution's kernel.
ON_TYPE1: Final = ("vfio_dma_mapping_test", "vfio_dma_mapping_mmio_test", "vfio_pci_driver_test")
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

Check = tuple[str, Callable[[], str]]  # returns what is worth saying; AssertionError: it fails


@dataclass(frozen=True, slots=True)
class User:
    """Who runs it: `before` are the words before the command."""

    name: str
    before: Sequence[str]

    def run(self, device: str, command: Sequence[str], *options: str) -> list[str]:
        """`iommud run` with the device."""
        return [*self.before, IOMMUD, "run", *options, "--device", device, "--", *command]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make clients", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("only", nargs="*", metavar="WORD", help="only the checks whose names have one of these words")
    parser.add_argument("--times", type=int, default=1, help="each so often (default: 1)")
    parser.add_argument("--brief", action="store_true", help="without DPDK's, which take minutes")
    options = parser.parse_args()
    passed = failed = 0
    try:
        for name, check in (*_kernels(), *_qemus(), *(() if options.brief else _dpdks())):
            if options.only and not any(word in name for word in options.only):
                continue
            good = _repeat(name, check, options.times)
            passed, failed = passed + good, failed + options.times - good
    except NotHere as reason:
        print(f"real clients: not run here: {reason}", file=sys.stderr)
        return NOT_HERE
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


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


def _users(*opened: str) -> Iterator[User]:
    """`opened`: options of as_nobody.py that let the user nobody into more than the checkout."""
    yield User("root" if os.geteuid() == 0 else "user", [])
    if os.geteuid() == 0:
        yield User("nobody", [*AS_NOBODY, *opened])


def _kernels() -> Iterator[Check]:
    tree = source.find()
    PLACE.mkdir(parents=True, exist_ok=True)
    programs = selftests.build(tree, PLACE / "selftests")
    for user in _users():
        for name, program in programs.items():
            if name in LARGE and user.before:
                continue
            yield f"{name}, as {user.name}", partial(_selftest, user, program)
            if name in ON_TYPE1:
                how = partial(_selftest, user, program, "--vfio", "type1")
                yield f"{name} on VFIO's own container, as {user.name}", how


def _selftest(user: User, program: Path, *options: str) -> str:
    variants = () if options else VARIANTS.get(program.name, ())
    only = [word for variant in variants for word in ("-v", variant)]
    command = user.run(f"{MODELS.get(program.name, 'edu')},bdf={BDF}", [str(program), *only, BDF], *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    results = parse((0.0, line) for line in done.stdout.splitlines())
    wrong = [
        f"{each.name}: {each.outcome} {' '.join(each.said)}" for each in results.values() if not _is_as_expected(each)
    ]
    all_right = bool(results) and not wrong and not done.returncode
    assert all_right, "\n".join([*wrong, done.stdout, done.stderr])
    skipped = sum(each.outcome is Outcome.SKIP for each in results.values())
    return f"{len(results)} of {len(results)}" + (f", {skipped} of them skipped by the test itself" if skipped else "")


def _is_as_expected(result: Result) -> bool:
    said = " ".join(result.said)
    return result.outcome is Outcome.PASS or (
        result.outcome is Outcome.SKIP and (said == SKIPPED.get(result.name) or said.startswith(NO_HUGE_PAGES))
    )


def _qemus() -> Iterator[Check]:
    yield "guest on QEMU's own edu", lambda: _boot([*_machine(), "-device", "edu"])
    for user in _users("--open", str(qemu.QEMU.root)):
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
    return user.run(f"edu,bdf={BDF}{keys}", ["sh", "-ec", script, "sh", *_machine()], *options)


def _boot(command: list[str]) -> str:
    return guest.boot(command, _guest())[-1]


def _dpdks() -> Iterator[Check]:
    for user in _users("--open", str(dpdk.DPDK.root)):
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
    assert not missing, f"not passed: {', '.join(sorted(missing))}\n{said[-4000:]}"
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
    script = f"{devbind} --bind vfio-pci {BDF} && {devbind} --status-dev dma"
    said = _dpdk(user, "ioat,driver=none", ["sh", "-c", script])
    (line,) = [line for line in said.splitlines() if line.startswith(BDF)]
    assert "drv=vfio-pci" in line, said
    return line


def _dpdk(
    user: User, device: str, command: Sequence[str], place: Path | None = None, options: Sequence[str] = ()
) -> str:
    """What it says on stdout. `place`: where it may write. `options`: of iommud."""
    if place is None:
        with _place() as place:
            return _dpdk(user, device, command, place, options)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(place)}
    done = subprocess.run(
        user.run(f"{device},bdf={BDF}", command, *options),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd="/",
    )
    assert not done.returncode, f"status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


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
