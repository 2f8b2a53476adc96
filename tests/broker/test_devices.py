"""`iommud serve --device`: whose a device is, and what becomes of it when somebody ends. What the
device itself answers is compared with Linux in clients/test_device_clients.py.
"""

import os
import signal

import pytest

from tests.broker.machine import Machine
from tests.broker.served import Client
from tests.support import AS_NOBODY, wait_for_call, wait_for_end

pytestmark = pytest.mark.usefixtures("root")

IOCTL = 16  # of x86-64
ID = "010000ed"  # edu's first register
VENDOR = "1234"


def stoppable(machine: Machine) -> tuple[Client, int]:
    """A client that has opened /dev/iommu (0), and the worker that serves it. No other client may
    have a worker yet.
    """
    client = machine.opened()
    (worker,) = machine.served.busy_workers()
    return client, worker


def test_two_users_each_have_a_device(machine: Machine) -> None:
    first, second = machine.driver(0), machine.driver(1, *AS_NOBODY)
    for client in first, second:
        assert client.ask("vendor 1") == "EINVAL", "not bound yet"
        assert client.ask("bind 1 0") == "0"
        assert client.ask("alloc 0") == "2", "the device has the first ID of the context"
        assert client.ask("attach 1 2") == "0"
        assert client.ask("vendor 1") == VENDOR
        assert client.ask("map 1") == "0"
        assert client.ask("load 0 0") == ID
    machine.until_workers(2)  # a device needs no worker of its own, once it is bound
    assert first.ask("close 0") == "0"
    assert first.ask("vendor 1") == VENDOR, "the context lives as long as its device"
    assert first.ask("close 1") == "0"
    assert first.ask("load 0 0") == ID, "and the device as long as it is mapped"
    assert first.ask("unmap 0") == "0"
    machine.until_workers(1)
    second.close()
    machine.until_workers(0)
    assert machine.served.stop() == (0, "")


def test_who_may_open_a_device_is_decided_by_its_file(machine: Machine) -> None:
    client = machine.begin(*AS_NOBODY)
    assert client.ask(f"open {machine.device(0)}") == "EACCES"
    assert client.ask(f"open {machine.device(1)}") == "0"


def test_one_has_it_at_a_time_and_the_next_at_once(machine: Machine) -> None:
    one, two = machine.driver(), machine.driver()
    assert one.ask("bind 1 0") == "0"
    assert one.ask("bind 1 0") == "EINVAL", "bound already"
    assert two.ask("bind 1 0") == "EINVAL", "another file has bound it"
    for at in range(1, 20):
        assert one.ask(f"close {at}") == "0"
        assert two.ask(f"bind {at} 0") == "0"
        assert one.ask(f"open {machine.device(0)}") == str(at + 1)
        assert two.ask(f"close {at}") == "0"
        assert one.ask(f"bind {at + 1} 0") == "0"
        assert two.ask(f"open {machine.device(0)}") == str(at + 1)


def test_a_close_comes_before_what_is_asked_next_by_another_door(machine: Machine) -> None:
    """A close is not waited for; the object that stood for the device is gone nevertheless."""
    client = machine.begin()
    assert client.ask("open") == "0"
    for _ in range(200):
        assert client.ask(f"open {machine.device(0)}") == "1"
        assert client.ask("bind 1 0") == "0"
        assert client.ask("close_and_destroy 1 0 1") == "ENOENT"


def test_a_group_belongs_to_one_context(machine: Machine) -> None:
    one, two = machine.driver(1), machine.driver(2)
    assert one.ask("bind 1 0") == "0"
    assert two.ask("bind 1 0") == "EPERM"
    assert one.ask(f"open {machine.device(0)}") == "2"
    assert one.ask("bind 2 0") == "0", "the context has a device of another group"
    assert one.ask("close 1") == "0"
    assert two.ask("bind 1 0") == "0"
    assert one.ask(f"open {machine.device(1)}") == "3"
    assert one.ask("bind 3 0") == "EPERM"


def test_what_is_no_iommufd(machine: Machine) -> None:
    client = machine.driver()
    assert client.ask("open /dev/null") == "2"
    assert client.ask(f"open {machine.device(1)}") == "3"
    assert client.ask(f"open {machine.device(0)}") == "4"
    for no_iommufd in (1, 2, 3, 4):
        assert client.ask(f"bind 1 {no_iommufd}") == "EBADFD"
    assert client.ask("bind-number 1 0") == "EBADFD", "a pipe"
    assert client.ask("bind-number 1 99") == "EBADF"
    assert client.ask("bind-number 1 -1") == "EINVAL"
    assert client.ask("bind 1 0") == "0"
    assert client.ask("vendor 1") == VENDOR


def test_a_client_that_is_killed_gives_its_device_back(machine: Machine) -> None:
    for _ in range(5):
        client = machine.driver()
        assert client.ask("bind 1 0") == "0"
        client.close()
    machine.until_workers(0)


def test_a_worker_that_is_killed_gives_its_device_back(machine: Machine) -> None:
    client, worker = stoppable(machine)
    other = machine.driver(1)
    assert other.ask("bind 1 0") == "0"
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("bind 1 0") == "0"
    os.kill(worker, signal.SIGKILL)
    wait_for_end(worker)
    assert client.ask("vendor 1") == "EIO"
    assert client.ask("alloc 0") == "EIO"
    assert other.ask("vendor 1") == VENDOR
    assert client.ask(f"open {machine.device(0)}") == "2"
    assert client.ask("open") == "3"
    assert client.ask("bind 2 3") == "0"
    assert client.ask("close 1") == "0"
    assert client.ask("vendor 2") == VENDOR


def test_a_bind_that_waits_harms_its_own_client_only(machine: Machine) -> None:
    client, worker = stoppable(machine)
    assert client.ask(f"open {machine.device(0)}") == "1"
    os.kill(worker, signal.SIGSTOP)
    client.tell("bind 1 0")
    wait_for_call(client.process.pid, IOCTL)
    other = machine.driver(1)
    assert other.ask("bind 1 0") == "0"
    same = machine.driver(0)
    assert same.ask("bind 1 0") == "0", "whoever waits does not have it"
    os.kill(worker, signal.SIGCONT)
    assert client.hear() == "EINVAL"
    assert same.ask("close 1") == "0"
    assert client.ask("bind 1 0") == "0"


def test_a_worker_that_is_killed_before_it_has_heard_of_a_bind(machine: Machine) -> None:
    client, worker = stoppable(machine)
    assert client.ask(f"open {machine.device(0)}") == "1"
    os.kill(worker, signal.SIGSTOP)
    client.tell("bind 1 0")
    wait_for_call(client.process.pid, IOCTL)
    machine.until_workers(1)  # the worker of the device's file has passed the bind on
    os.kill(worker, signal.SIGKILL)
    assert client.hear() == "EIO"
    other = machine.driver()
    assert other.ask("bind 1 0") == "0"


def test_threads_that_bind_one_file_to_several(machine: Machine) -> None:
    client = machine.driver()
    assert client.ask("open") == "2"
    for at in range(3, 23):
        assert client.ask(f"race {at - 1 if at > 3 else 1} 0 {2 if at == 3 else 0} 0 0") == "0,EINVAL,EINVAL,EINVAL"
        assert client.ask(f"close {at - 1 if at > 3 else 1}") == "0"
        assert client.ask(f"open {machine.device(0)}") == str(at)


def test_a_daemon_that_is_killed_and_replaced(machine: Machine) -> None:
    client = machine.driver()
    assert client.ask("bind 1 0") == "0"
    assert client.ask("map 1") == "0"
    machine.served.process.kill()
    machine.served.process.wait()
    replaced = machine.serve()
    assert client.ask("vendor 1") in ("ENOTCONN", "ECONNABORTED")
    other = machine.driver()
    assert other.ask("bind 1 0") == "0"
    assert other.ask("vendor 1") == VENDOR
    assert client.ask("close 1") == "0"
    other.close()
    assert replaced.stop() == (0, "")
