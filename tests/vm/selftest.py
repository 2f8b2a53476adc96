"""The kernel's own selftest of IOMMUFD on the guest's /dev/iommu."""

from tests.kernel_selftest.__main__ import HUGEPAGES_NEEDED, WATCH_LIST, all_names
from tests.kernel_selftest.build import build
from tests.kernel_selftest.expected import judge, read
from tests.kernel_selftest.source import find
from tests.kernel_selftest.tap import parse
from tests.support import ROOT

from .machine import Machine

HUGEPAGES = "/proc/sys/vm/nr_hugepages"
LIMIT = 300.0  # seconds
# These two calls are the kernel's to answer on a character device of CUSE; `iommud run` watches for
# them (tests/clients/unwatched.py).
UNWATCHED = {"iommufd_viommu.mock_viommu.viommu_alloc_with_data", "iommufd_viommu.mock_viommu.vdevice_alloc"}
LEAST = 50  # tests that pass, at the least
# Without hardware's help a processor is some twenty times slower, and the selftest's harness ends a
# test after 30 s of real time. These make up to 252,000 ioctls each, in every variant; on FUSE they
# run with the others (tests/kernel_selftest).
TOO_LONG = {
    *(f"iommufd_ioas.{variant}.{test}"
      for variant in ("no_domain", "mock_domain", "two_mock_domain", "mock_domain_limit")
      for test in ("access_rw", "access_rw_unaligned", "fork_present", "fork_gone", "ioas_iova_alloc")),
    *(f"iommufd_mock_domain.{variant}.{test}"
      for variant in (
          "one_domain", "two_domains", "one_domain_hugepage", "two_domains_hugepage", "one_domain_file",
          "one_domain_file_hugepage",
      )
      for test in ("all_aligns", "all_aligns_copy")),
}  # fmt: skip


def much_the_same(names: list[str]) -> set[str]:
    """All but the first variant of each test. Each opens the device, and does the same but for page
    sizes; all of them run on FUSE.
    """
    first: set[tuple[str, str]] = set()
    found = set()
    for name in names:
        fixture, *_, test = name.split(".")
        if (fixture, test) in first:
            found.add(name)
        first.add((fixture, test))
    return found


def complaints(vm: Machine) -> str:
    """What is not as tests/kernel_selftest expects it, of the tests that run in the guest; empty:
    nothing. Raises NotHere.
    """
    binary = build(find(), ROOT / "build" / "kernel_selftest")
    every = all_names(binary)
    assert set(every) > TOO_LONG
    left_out = (
        TOO_LONG | much_the_same([name for name in every if name not in TOO_LONG]) if vm.accelerator == "tcg" else set()
    )
    names = [name for name in every if name not in left_out]
    vm.run("sh", "-c", f"echo {HUGEPAGES_NEEDED} > {HUGEPAGES}; grep -qx {HUGEPAGES_NEEDED} {HUGEPAGES}").check()
    done = vm.run(str(binary), *(word for name in names for word in ("-r", name)), limit=LIMIT)
    vm.run("sh", "-c", f"echo 0 > {HUGEPAGES}").check()
    results = parse((0.0, line) for line in done.stdout.splitlines())
    verdict = judge(names, results, [*read(WATCH_LIST.read_text()), *UNWATCHED])
    if done.late or len(verdict.passed) < LEAST:
        return str(done)
    said = [f"{name}: {' '.join(results[name].said) if name in results else 'did not run'}" for name in verdict.broken]
    return "\n".join([*said, *(f"{name}: is listed, and passes" for name in verdict.mended)])
