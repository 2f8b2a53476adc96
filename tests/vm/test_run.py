"""`iommud run` on Debian's stock kernel, which is older than the one that most of the tests
run on.
"""

import pytest

from tests.clients.build import build
from tests.support import IOMMUD

from .machine import Machine

LIMIT = 200.0  # seconds for a client
FEW_TIMES = {"FEW_TIMES": "1"}  # as in test_clients.py


@pytest.mark.parametrize(
    ("name", "flags"), [("file_ops", []), ("mock/memory", ["--pin=uring"])], ids=["watched calls", "true pins"]
)
def test_client(name: str, flags: list[str], vm: Machine) -> None:
    done = vm.run(IOMMUD, "run", "--mock", *flags, "--", build(name), limit=LIMIT, env=FEW_TIMES)
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(("ok ", "# ", "1.."))] == [], str(done)
    assert (done.status, done.stderr, done.late) == (0, "", False), str(done)
    assert lines[-1] == f"1..{sum(line.startswith('ok ') for line in lines)}"
