"""Counts that processes share: nobody's is lost, and those of the dead are taken away."""

import os
import signal
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuse_glue.broker.counts import ENTRIES, PAGES, Full, Table, key_of

KEYS = (7, 7 + PAGES, 8)  # two of one page, and one of another


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 5), st.integers(-3, 9)), max_size=60), st.integers(1, 5)
)
def test_as_a_dictionary(steps: list[tuple[int, int, int]], dead: int) -> None:
    table = Table()
    model: Counter[tuple[int, int]] = Counter()
    for key, worker, count in steps:
        model[key, worker] += count
        of_all = sum(number for (its, _), number in model.items() if its == key)
        assert table.add(key, worker, count) == (of_all, model[key, worker])
    wanted = {entry: number for entry, number in model.items() if number}
    assert {(key, worker): number for key, worker, number in table.entries()} == wanted
    table.forget(dead)
    assert {entry[:2] for entry in table.entries()} == {entry for entry in wanted if entry[1] != dead}
    os.close(table.fd)


def test_a_page_that_is_full_says_so_and_is_usable_again() -> None:
    table = Table()
    for worker in range(1, ENTRIES + 1):
        table.add(7, worker, 1)
    with pytest.raises(Full):
        table.add(7, ENTRIES + 1, 1)
    assert table.add(7, 1, 1) == (ENTRIES + 1, 2)
    table.forget(3)
    assert table.add(7, ENTRIES + 1, 1) == (ENTRIES + 1, 1)
    os.close(table.fd)


def test_many_processes_count_at_once() -> None:
    table = Table()
    children = []
    for worker in range(1, 5):
        pid = os.fork()
        if pid == 0:
            for _ in range(500):
                table.add(7, worker, 2)
                table.add(7, worker, -1)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert table.add(7, 99, 0) == (2000, 0)
    os.close(table.fd)


def test_who_dies_with_a_lock_holds_up_nobody() -> None:
    table = Table()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with table._locked(7 * 4096):
            os.write(writing, b".")
            signal.pause()
    os.read(reading, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert table.add(7, 1, 1) == (1, 1)
    for fd in reading, writing, table.fd:
        os.close(fd)


def test_keys_differ() -> None:
    assert len({key_of("user", 1), key_of("user", 2), key_of("process", 1), key_of("user", "1")}) == 4


def test_one_worker_has_a_claim_until_it_gives_it_back_or_dies() -> None:
    table = Table()
    assert table.claim(7, 1)
    assert table.claim(8, 2), "another thing"
    assert not table.claim(7, 2)
    assert table.claim(7, 1), "once more"
    assert table.total(7) == 2
    table.add(7, 1, -1)
    assert not table.claim(7, 2)
    table.add(7, 1, -1)
    assert table.claim(7, 2)
    table.forget(2)
    assert table.claim(7, 3)
    assert table.total(8) == 0
