"""Which of our threads get a processor soon, and which get more of it."""

import os
import re
import threading
from pathlib import Path

import pytest

from cuse_glue.system import libc, priority


def in_a_thread(*calls: object) -> list[tuple[int, str]]:
    """After each call, made in one thread: its niceness, and its turn in the kernel's words."""
    found: list[tuple[int, str]] = []

    def look() -> None:
        for call in calls:
            call()  # type: ignore[operator]
            tid = threading.get_native_id()
            said = Path(f"/proc/self/task/{tid}/sched")
            turn = re.search(r"se\.slice\s*:\s*(\d+)", said.read_text()) if said.exists() else None
            found.append((os.getpriority(os.PRIO_PROCESS, tid), turn[1] if turn else ""))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found


def test_short_turns_come_with_either_and_stay() -> None:
    (first, turn), (others, later) = in_a_thread(priority.go_first, priority.go_with_others)
    assert others == 0
    assert first == (priority.PRIORITY if os.geteuid() == 0 else 0)
    if os.sched_getscheduler(0) == os.SCHED_OTHER and turn:  # a kernel that tells
        assert turn == later == str(priority.TURN)


def test_another_policy_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(libc, "sched_setattr", lambda *words: asked.append(words))
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_BATCH)
    in_a_thread(priority.go_with_others)
    assert asked == []


def test_a_filter_that_forbids_it_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(libc, "sched_setattr", refused)
    monkeypatch.setattr(os, "setpriority", refused)
    assert [nice for nice, _ in in_a_thread(priority.go_first)] == [os.getpriority(os.PRIO_PROCESS, 0)]
