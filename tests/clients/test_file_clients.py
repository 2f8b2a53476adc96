"""dma-bufs, and files that change hands, judged by C programs that also pass on Linux 7.3 built
with its mock devices.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.build import build
from tests.clients.test_clients import CAP_SYS_RESOURCE, USER_NAMESPACE, judge
from tests.support import IOMMUD

RUN = [IOMMUD, "run", "--mock", "--"]


@pytest.mark.parametrize("name", ["dma_buf", "change_process"])
def test_client(name: str) -> None:
    judge([*RUN, build(f"mock/{name}")])


def test_change_process_by_process() -> None:
    """RLIMIT_MODE 1 takes CAP_SYS_RESOURCE, which containers often lack; in a user namespace
    everybody has it.
    """
    effective = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert effective
    prefix = [] if int(effective[1], 16) >> CAP_SYS_RESOURCE & 1 else USER_NAMESPACE
    if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        pytest.skip("neither CAP_SYS_RESOURCE nor a user namespace")
    judge([*prefix, *RUN, build("mock/change_process"), "--mm"])
