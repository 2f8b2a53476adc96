"""A client process that does what the test says, one line at a time: `python client.py`.

Each line on its standard input is a Python statement or expression; the answer is one line, `=
repr(value)` or `! error`. It knows the names of mappings.py, and `thread(text)` evaluates an
expression in another thread that goes on living until `leave()`.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import mappings  # type: ignore[import-not-found]  # beside this script; tests.wire.mappings to others

NAMES: dict[str, Any] = {name: getattr(mappings, name) for name in dir(mappings) if not name.startswith("__")}
_leave = threading.Event()


def thread(text: str) -> tuple[int, Any]:
    """Evaluate `text` in a new thread; its id and the value."""
    answer: list[Any] = []
    done = threading.Event()

    def work() -> None:
        answer.extend((threading.get_native_id(), eval(text, NAMES)))
        done.set()
        _leave.wait()

    threading.Thread(target=work).start()
    done.wait()
    return answer[0], answer[1]


def again_and_again(action: Callable[[], Any]) -> None:
    """In another thread, until `leave()`."""

    def work() -> None:
        while not _leave.is_set():
            action()

    threading.Thread(target=work).start()


def leave() -> None:
    """End the other threads, and wait until they are gone from the process."""
    _leave.set()
    for other in threading.enumerate():
        if other is not threading.current_thread():
            other.join()
    tid = str(threading.get_native_id())
    # join returns before the kernel has let go of the thread
    while os.listdir("/proc/self/task") != [tid]:
        os.sched_yield()


def execute() -> None:
    """Become another program of the same kind."""
    os.execv(sys.executable, [sys.executable, __file__])


def main() -> None:
    """Until the input ends."""
    NAMES.update(os=os, thread=thread, again_and_again=again_and_again, leave=leave, execute=execute)
    print("= 'ready'", flush=True)
    for line in sys.stdin:
        try:
            try:
                value = eval(line, NAMES)
            except SyntaxError:
                exec(line, NAMES)
                value = None
            print("=", repr(value), flush=True)
        except mappings.Skip as skip:
            print("~", skip, flush=True)
        except Exception as error:
            print("!", type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
