"""`make kernel-selftest`: the kernel's selftest of IOMMUFD, as it is, held against the list of
expected failures.

Exit status: 0 as expected, 1 not, 2 a wrong call, 77 it cannot run on this machine (the last line
on stderr says why).
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.debian import NotHere

from .build import ROOT, build
from .expected import Judgement, judge, read, shrink
from .process import capable, collect, huge_pages
from .source import COMPLETE, VERSION, find
from .tap import Outcome, Result, names, parse

LIST = Path(__file__).with_name("expected.txt")
WATCH_LIST = Path(__file__).with_name("expected_watch.txt")  # with --pin=watch
# the largest buffer is 64; the rest for pages that are given back a moment after a test's end
HUGEPAGES_NEEDED = 96
LIMIT_SECONDS = 300.0
SLOW_SECONDS = 3.0
NOT_HERE = 77
CAP_SYS_RESOURCE = 24
# They set RLIMIT_MODE.
NEED_SYS_RESOURCE = ("iommufd.global_options", "change_process.account_user.basic", "change_process.account_mm.basic")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    # so that every `finally` runs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run(options)
    except NotHere as reason:
        print(f"kernel selftest: not run here: {reason}", file=sys.stderr)
        return NOT_HERE
    except ValueError as mistake:
        print(f"kernel selftest: {mistake}", file=sys.stderr)
        return 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make kernel-selftest", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("only", nargs="*", metavar="NAME", help="run these tests only (iommufd_ioas.no_domain.area)")
    parser.add_argument("--iommud", type=Path, default=Path(sys.executable).with_name("iommud"), metavar="PATH")
    parser.add_argument("--no-mock", action="store_true", help="without the mock device")
    parser.add_argument("--pin", default="uring", metavar="HOW", help="iommud's option --pin (default: %(default)s)")
    parser.add_argument("--direct", action="store_true", help="on this machine's own /dev/iommu, without iommud")
    parser.add_argument("--list", type=Path, metavar="FILE", help="another list of expected failures")
    parser.add_argument("--update", action="store_true", help="remove from the list what need not be there any more")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, metavar="SECONDS", help="of the whole run (%(default)s)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    options.list = options.list or (WATCH_LIST if options.pin == "watch" else LIST)
    text = options.list.read_text()
    listed = read(text)
    if os.geteuid() != 0:
        raise NotHere("its tests take huge pages and capabilities: it needs root")
    if not options.direct and not os.access(options.iommud, os.X_OK):
        raise ValueError(f"there is no {options.iommud} (make setup)")
    tree = find()
    place = ROOT / "build" / "kernel_selftest"
    binary = build(tree, place)
    every = all_names(binary)
    for name in options.only:
        if name not in every:
            raise ValueError(f"there is no test {name}")

    print(f"Linux {version(tree)}: {' '.join(command(options, binary, options.only))}", flush=True)
    log = place / "output.txt"
    with huge_pages(HUGEPAGES_NEEDED):
        output = collect(command(options, binary, options.only), log, options.limit)
        results = parse(output.lines)
        failed = any(result.outcome in (Outcome.FAIL, Outcome.MISSING) for result in results.values())
        results |= again_with_capability(options, binary, place, results)
    if not results:
        print(f"kernel selftest: not one test ran; {log} ends with:\n{tail(log)}")
        return 1
    if options.only:
        every = [name for name in every if name in options.only]
        listed = [name for name in listed if name in every]
    verdict = judge(every, results, listed)
    report(verdict, results)
    skipped = [name for name in verdict.skipped if name in listed]
    if skipped and not options.update:
        print(f"skipped, so need not be listed (--update): {' '.join(skipped)}")
    if options.update and (gone := verdict.mended + verdict.unknown + skipped):
        options.list.write_text(shrink(text, gone))
        print(f"removed from {options.list.name}: {len(gone)} names; the next run holds them to it")
    bad = verdict.bad
    if output.timed_out:
        bad += 1
        print(f"ENDED after {options.limit:.0f} s, before it was through")
    elif output.status != (1 if failed else 0):
        bad += 1
        print(f"EXIT STATUS {output.status} is not the selftest's own")
    print(f"{output.seconds:.1f} s; the whole output is in {log}")
    passed = len(verdict.passed)
    print(
        f"kernel selftest: {passed} passed, {bad} failed, "
        f"{len(verdict.failed)} expected failures, {len(verdict.skipped)} skipped"
    )
    print(f"{passed} passed, {bad} failed")
    return 1 if bad else 0


def command(options: argparse.Namespace, binary: Path, only: Sequence[str]) -> list[str]:
    """What runs the tests `only`, or all."""
    mock = [] if options.no_mock else ["--mock"]
    through = [] if options.direct else [str(options.iommud), "run", *mock, f"--pin={options.pin}", "--"]
    return [*through, str(binary), *(word for name in only for word in ("-r", name))]


def again_with_capability(
    options: argparse.Namespace, binary: Path, place: Path, results: dict[str, Result]
) -> dict[str, Result]:
    """The results of those tests that failed for want of CAP_SYS_RESOURCE, from a user namespace
    where root has it.

    The kernel's own /dev/iommu asks for the capability in the first namespace; a container's root
    may lack it.
    """
    failed = [name for name in NEED_SYS_RESOURCE if name in results and results[name].outcome is Outcome.FAIL]
    if options.direct or not failed or capable(CAP_SYS_RESOURCE):
        return {}
    print(f"root lacks CAP_SYS_RESOURCE here; again, in a user namespace: {' '.join(failed)}", flush=True)
    inside = ["unshare", "--user", "--map-root-user", *command(options, binary, failed)]
    return parse(collect(inside, place / "output-namespace.txt", options.limit).lines)


def version(tree: Path) -> str:
    stamp = tree / COMPLETE
    return stamp.read_text().splitlines()[0] if stamp.is_file() else f"{VERSION} of {tree}"


def all_names(binary: Path) -> list[str]:
    """Every test that the binary holds (asking does not open /dev/iommu)."""
    listing = subprocess.run(
        [str(binary), "-l"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    found = names(listing.stderr)
    if not found:
        raise ValueError(f"{binary} -l lists no tests:\n{listing.stderr}")
    return found


def report(verdict: Judgement, results: dict[str, Result]) -> None:
    """The names, by outcome, and the harness's complaints about those that should not have
    failed.
    """
    passed = len(verdict.passed) + len(verdict.mended)
    failed = len(verdict.failed) + len(verdict.broken)
    print(f"{passed} pass, {failed} fail, {len(verdict.skipped)} skip")
    for title, group in (
        ("pass", [*verdict.passed, *verdict.mended]),
        ("fail, as listed", verdict.failed),
        ("skip", verdict.skipped),
    ):
        show(title, group)
    for result in sorted(results.values(), key=lambda result: result.seconds, reverse=True)[:5]:
        if result.seconds >= SLOW_SECONDS:
            print(f"slow: {result.name} {result.seconds:.1f} s")
    for name in verdict.broken:
        result = results.get(name, Result(name, Outcome.MISSING))
        print(f"NOT LISTED, AND FAILED: {name} ({result.outcome})")
        for line in result.said:
            print(f"    {line}")
    for name in verdict.mended:
        print(f"LISTED, AND PASSES: {name} (take it off the list: --update)")
    for name in verdict.unknown:
        print(f"LISTED, AND NO TEST: {name} (take it off the list: --update)")


def show(title: str, group: Iterable[str]) -> None:
    """Names, one line for all tests of a fixture's variant."""
    lines: dict[str, list[str]] = {}
    for name in group:
        fixture, _, test = name.rpartition(".")
        lines.setdefault(fixture, []).append(test)
    if lines:
        print(f"{title}:")
    for fixture, tests in lines.items():
        print(f"    {fixture}: {' '.join(tests)}")


def tail(log: Path) -> str:
    return "".join(log.read_text(errors="replace").splitlines(keepends=True)[-20:])


if __name__ == "__main__":
    sys.exit(main())
