"""`iommud serve --device`: whose a group is, and what becomes of it when somebody ends. What its
file answers is compared with Linux in clients/test_group_clients.py.
"""

import os
import signal

import pytest

from tests.broker.machine import Machine
from tests.broker.served import Client, until
from tests.broker.test_devices import ID, IOCTL, VENDOR
from tests.support import wait_for_call, wait_for_end

pytestmark = pytest.mark.usefixtures("root")

NAMES = ("0000:e0:00.0", "0000:e0:01.0", "0000:e0:02.0")
VIABLE, VIABLE_WITH_CONTAINER, NOT_VIABLE = "1", "3", "0"


def begin(machine: Machine) -> Client:
    """A client that has opened a container (0)."""
    client = machine.begin()
    assert client.ask(f"open {machine.container}") == "0"
    return client


def driver(machine: Machine, group: int = 0) -> Client:
    """A client that has opened a container (0) and a group (1), which has the container."""
    client = begin(machine)
    assert client.ask(f"open {machine.group(group)}") == "1"
    assert client.ask("container 1 0") == "0"
    return client


def test_two_clients_each_drive_a_group(machine: Machine) -> None:
    first, second = driver(machine, 0), driver(machine, 1)
    for client, name in (first, NAMES[0]), (second, NAMES[1]):
        assert client.ask(f"device 1 {name}") == "2"
        assert client.ask("vendor 2") == VENDOR
        assert client.ask("map 2") == "0"
        assert client.ask("load 0 0") == ID
    machine.until_workers(2)  # a group needs no worker of its own, once it has a container
    assert second.ask(f"device 1 {NAMES[2]}") == "3", "the other device of the group"
    assert first.ask(f"device 1 {NAMES[1]}") == "ENODEV", "of the other group"
    first.close()
    machine.until_workers(1)
    second.close()
    machine.until_workers(0)
    assert machine.served.stop() == (0, "")


def test_a_group_is_open_once_among_all_and_free_at_once(machine: Machine) -> None:
    one, two = begin(machine), begin(machine)
    assert one.ask(f"open {machine.group(0)}") == "1"
    assert two.ask(f"open {machine.group(0)}") == "EBUSY"
    assert one.ask("container 1 0") == "0"
    assert two.ask(f"open {machine.group(0)}") == "EBUSY", "another worker has it now"
    for at in range(1, 20):
        assert one.ask(f"close {at}") == "0"
        assert two.ask(f"open {machine.group(0)}") == str(at)
        assert two.ask(f"container {at} 0") == "0"
        assert two.ask(f"close {at}") == "0"
        assert one.ask(f"open {machine.group(0)}") == str(at + 1)


def test_a_group_that_moves_is_never_open_to_another(machine: Machine) -> None:
    """Somebody tries to open it all the time."""
    one, two = begin(machine), begin(machine)
    assert one.ask("open") == "1"
    assert one.ask(f"open {machine.group(0)}") == "2"
    for context in (0, 1) * 20:
        one.tell(f"container 2 {context}")
        assert two.ask(f"open {machine.group(0)}") == "EBUSY"
        assert one.hear() == "0"
        assert one.ask("uncontainer 2") == "0"


def test_a_groups_file_and_its_devices_own_exclude_each_other(machine: Machine) -> None:
    one, two = driver(machine, 1), machine.driver(1)
    assert two.ask("bind 1 0") == "EBUSY", "the group is open"
    assert two.ask(f"open {machine.device(0)}") == "2"
    assert two.ask("bind 2 0") == "0", "a device of another group"
    assert one.ask("close 1") == "0"
    assert two.ask("bind 1 0") == "0"
    assert one.ask(f"open {machine.group(1)}") == "EBUSY", "a device of it is bound by its own file"
    assert two.ask("close 1") == "0"
    assert one.ask(f"open {machine.group(1)}") == "2"


def test_devices_that_outlive_their_group_keep_it_from_others(machine: Machine) -> None:
    one, two = driver(machine), begin(machine)
    assert one.ask(f"device 1 {NAMES[0]}") == "2"
    assert one.ask("close 1") == "0"
    assert two.ask(f"open {machine.group(0)}") == "1"
    assert two.ask("status 1") == NOT_VIABLE
    assert two.ask("container 1 0") == "0"
    assert two.ask(f"device 1 {NAMES[0]}") == "EINVAL"
    assert two.ask("uncontainer 1") == "0"
    assert one.ask("vendor 2") == VENDOR
    assert one.ask("close 2") == "0"
    assert two.ask("status 1") == VIABLE
    assert two.ask("container 1 0") == "0"
    assert two.ask("status 1") == VIABLE_WITH_CONTAINER
    assert two.ask(f"device 1 {NAMES[0]}") == "2"


def test_a_client_that_is_killed_gives_its_group_back(machine: Machine) -> None:
    for _ in range(5):
        client = driver(machine)
        assert client.ask(f"device 1 {NAMES[0]}") == "2"
        client.close()
    machine.until_workers(0)


def test_a_worker_that_is_killed_gives_its_group_back(machine: Machine) -> None:
    client = driver(machine)
    (worker,) = machine.served.busy_workers()
    assert client.ask(f"device 1 {NAMES[0]}") == "2"
    os.kill(worker, signal.SIGKILL)
    wait_for_end(worker)
    assert client.ask("vendor 2") == client.ask("status 1") == client.ask("alloc 0") == "EIO"
    other = begin(machine)
    until(lambda: other.ask(f"open {machine.group(0)}") == "1")  # it is forgotten in a moment
    assert other.ask("container 1 0") == "0"
    assert other.ask(f"device 1 {NAMES[0]}") == "2"
    for at in 2, 1, 0:
        assert client.ask(f"close {at}") == "0"
    assert other.ask("vendor 2") == VENDOR


def test_a_container_whose_worker_hangs_harms_its_own_client_only(machine: Machine) -> None:
    client = begin(machine)
    (worker,) = machine.served.busy_workers()
    assert client.ask(f"open {machine.group(0)}") == "1"
    os.kill(worker, signal.SIGSTOP)
    client.tell("container 1 0")
    wait_for_call(client.process.pid, IOCTL)
    other = driver(machine, 1)
    assert other.ask(f"device 1 {NAMES[1]}") == "2"
    assert other.ask("vendor 2") == VENDOR
    os.kill(worker, signal.SIGKILL)
    assert client.hear() == "EIO"
    until(lambda: other.ask(f"open {machine.group(0)}").isdigit())


def test_what_is_no_container(machine: Machine) -> None:
    client = begin(machine)
    assert client.ask(f"open {machine.group(0)}") == "1"
    assert client.ask(f"open {machine.group(1)}") == "2"
    assert client.ask(f"open {machine.device(0)}") == "3"
    for no_container in 1, 2, 3:
        assert client.ask(f"container 1 {no_container}") == "EBADFD"
    assert client.ask("container 1 0") == "0"
    assert client.ask("container 1 0") == "EINVAL", "it has one"
