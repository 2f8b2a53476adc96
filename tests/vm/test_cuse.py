"""A real character device: `iommud serve --cuse NAME` from its start to its end, however that
comes, and who else may have the name.
"""

import errno
import signal
import sys
from pathlib import Path

import pytest

from tests.support import IOMMUD, ROOT

from .daemon import NAME, PATH, USED, number, refusal, serving, start
from .machine import Machine

RACE = Path(__file__).with_name("race.py")


def test_the_node(vm: Machine, probe: str) -> None:
    with serving(vm, NAME, "--mode", "0640", "--group", "games") as daemon:
        assert vm.run("stat", "-c", "%F %a %U %G", PATH).stdout == "character special file 640 root games\n"
        major, minor = (f"{int(part):x}" for part in number(vm).split(":"))
        assert vm.run("stat", "-c", "%t:%T", PATH).stdout == f"{major}:{minor}\n"
        assert vm.run(probe, "once", PATH).check().stdout == USED
        daemon.kill(signal.SIGINT)
        assert daemon.wait(60).status == 0
        assert daemon.wait().stderr == f"iommud: serving {PATH} (CUSE)\n"
    assert vm.run("test", "-e", PATH).status == 1
    assert number(vm) == ""


def test_an_end_with_a_client_and_a_start_after_a_kill(vm: Machine, probe: str) -> None:
    """The daemon is killed; its client is told, its name is free at once, and new clients are
    served.
    """
    daemon = start(vm)
    client = vm.start(probe, "wait", PATH)
    assert (client.line(), client.line()) == ("ioas 1", "refused 2")
    daemon.kill(signal.SIGKILL)
    assert daemon.wait(60).status == -signal.SIGKILL
    assert vm.run("test", "-e", PATH).status == 1, "the kernel takes the node away"
    with serving(vm):
        client.say("\n")
        assert client.line() == f"alloc {errno.ENOTCONN} open 0", (
            "the old one's descriptor is dead, the new one's is to be had"
        )
        client.end_input()
        client.wait().check()
        assert vm.run(probe, "once", PATH).check().stdout == USED


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(f"mknod {PATH} c 1 3", "is a real device", id="real device"),
        pytest.param(f"echo mine > {PATH}", "is there already, and not ours to take", id="file"),
        pytest.param(f"ln -s nowhere {PATH}", "is there already, and not ours to take", id="dangling link"),
    ],
)
def test_the_name_is_taken(make: str, sentence: str, vm: Machine) -> None:
    look = f"stat -c '%F %t:%T %s' {PATH}"
    before = vm.run("sh", "-c", f"{make}; {look}").check().stdout
    try:
        assert f"{PATH} {sentence}" in refusal(vm, IOMMUD, "serve", "--cuse", NAME)
        assert vm.run("sh", "-c", look).stdout == before
        assert number(vm) == ""
    finally:
        vm.run("rm", PATH).check()


def test_a_real_device_comes_at_the_same_moment(vm: Machine) -> None:
    """The kernel registers ours all the same, in silence, and the other one's node stands in front
    of it.
    """
    try:
        sentence = refusal(vm, "env", f"PYTHONPATH={ROOT}", sys.executable, str(RACE), f"mknod {PATH} c 1 3", NAME)
        assert f"{PATH} is another device or file, which came there at the same moment" in sentence
        assert vm.run("stat", "-c", "%t:%T %a", PATH).stdout == "1:3 644\n"
        assert number(vm) == ""
    finally:
        vm.run("rm", PATH).check()


def test_another_iommud_comes_at_the_same_moment(vm: Machine, probe: str) -> None:
    """The kernel refuses the later one, and that does nothing to the node of the first."""
    # so it does not see our lock
    own_run = "setsid unshare -m sh -c 'mount -t tmpfs own /run && exec \"$@\"' sh"
    rival = (
        f"{own_run} {IOMMUD} serve --cuse {NAME} --mode 0600 </dev/null >/dev/null 2>/run/rival & echo $! >/run/rival.pid; "
        "until grep -q serving /run/rival; do sleep 0.5; done"
    )
    try:
        sentence = refusal(vm, "env", f"PYTHONPATH={ROOT}", sys.executable, str(RACE), rival, NAME)
        assert f"/dev/{NAME} (CUSE) was refused by the kernel: another program made a device of that name" in sentence
        assert vm.run("stat", "-c", "%a", PATH).stdout == "600\n"
        assert vm.run(probe, "once", PATH).check().stdout == USED
    finally:
        vm.run("sh", "-c", f"kill $(cat /run/rival.pid); while test -e {PATH}; do sleep 0.1; done").check()
