"""VFIO's own container (`--vfio type1`), asked by C programs that print what they are answered: as
a Linux 7.3 with CONFIG_VFIO_CONTAINER answered them of QEMU's edus.

expected/type1/ has what they printed there, in the machines of test_group_clients.py. Of that
kernel /dev/vfio/vfio is drivers/vfio/container.c and vfio_iommu_type1.c, and /dev/iommu is IOMMUFD.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE

from .build import build
from .test_device_clients import EXPECTED, compare
from .test_group_clients import ADDRESSES, DEVICES, NO_IOMMU, TWO_GROUPS, WITH_A_NATIVE_DRIVER, served

TYPE1 = [*TWO_GROUPS, "--vfio", "type1"]
WITHOUT_IOMMU = [IOMMUD, "run", "--vfio=type1", NO_IOMMU]
# Nobody watches the programs of `serve`.
IN_SERVE = {
    f"read of nothing {when}: EINVAL": f"read of nothing {when}: 0"
    for when in ("alone", "with a group", "with a driver")
}
ANSWERS = EXPECTED / "type1"
# What all that `type1_walk ... SEED 3000` and `group_walk ... SEED 1000` were answered comes to
# there, as a checksum.
LINUX_WALKED = {
    1: "55610a126830b609",
    2: "d11d8fd189590313",
    3: "e69e09d22218f58f",
    4: "2b7a1f54aaacafff",
}
LINUX_WALKED_GROUPS = {
    1: "d31fa59efde2e9b1",
    2: "2ceea38829de5f9b",
    3: "b822bb30e3b27591",
}


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("program", ["type1_container", "type1_maps"])
def test_its_container_is_as_on_linux(program: str) -> None:
    compare([*TYPE1, "--"], program, *ADDRESSES, answers=ANSWERS)


@pytest.mark.usefixtures("root")
def test_a_group_of_which_another_driver_has_a_device_is_as_on_linux() -> None:
    command = [IOMMUD, "run", "--vfio=type1", *WITH_A_NATIVE_DRIVER, "--"]
    compare(command, "not_viable", *ADDRESSES[:2], answers=ANSWERS)


@pytest.mark.usefixtures("root")
def test_a_group_of_serve_of_which_another_driver_has_a_device_is_as_on_linux(tmp_path: Path) -> None:
    with served(tmp_path, "--vfio=type1", *WITH_A_NATIVE_DRIVER) as inside:
        compare(inside, "not_viable", *ADDRESSES[:2], answers=ANSWERS)


@pytest.mark.usefixtures("root")
def test_a_device_without_an_iommu_is_as_on_linux() -> None:
    compare([*WITHOUT_IOMMU, "--"], "type1_noiommu", ADDRESSES[2], answers=ANSWERS)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("watch", [[], ["--no-watch"]], ids=["watched", "traced"])
def test_without_any_privilege(watch: list[str]) -> None:
    command = [*AS_NOBODY, *TYPE1, *watch, "--", build("vfio/type1_walk"), *ADDRESSES, "1", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == (f"seed 1, 3000 steps: {LINUX_WALKED[1]}\n", "")


@pytest.mark.parametrize(
    ("program", "seed", "steps", "linux"),
    [("type1_walk", seed, 3000, found) for seed, found in LINUX_WALKED.items()]
    + [("group_walk", seed, 1000, found) for seed, found in LINUX_WALKED_GROUPS.items()],
)
def test_a_random_walk_is_answered_as_by_linux(program: str, seed: int, steps: int, linux: str) -> None:
    """With `trace` behind them the programs print each step, where one differs."""
    command = [*TYPE1, "--", build(f"vfio/{program}"), *ADDRESSES, str(seed), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == (f"seed {seed}, {steps} steps: {linux}\n", "")


@pytest.mark.usefixtures("root")
def test_that_of_serve_is_as_on_linux(tmp_path: Path) -> None:
    """Each container has a worker of its own, to which its groups go."""
    with served(tmp_path, "--vfio=type1", *DEVICES) as inside:
        compare(inside, "type1_container", *ADDRESSES, answers=ANSWERS, instead=IN_SERVE)
        compare(inside, "type1_maps", *ADDRESSES, answers=ANSWERS)
        for seed in (1, 2):
            command = [*inside, build("vfio/type1_walk"), *ADDRESSES, str(seed), "3000"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
            assert (done.stdout, done.stderr) == (f"seed {seed}, 3000 steps: {LINUX_WALKED[seed]}\n", "")


@pytest.mark.usefixtures("root")
def test_a_device_of_serve_without_an_iommu_is_as_on_linux(tmp_path: Path) -> None:
    with served(tmp_path, "--vfio=type1", NO_IOMMU) as inside:
        compare(inside, "type1_noiommu", ADDRESSES[2], answers=ANSWERS)
