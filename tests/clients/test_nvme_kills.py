"""What a driver of an NVMe controller has flushed stays in the file, whoever is killed (-9).

`make nvme` plays a thousand rounds.
"""

from pathlib import Path

import pytest

from tests.clients.nvme.kills import Rounds

ROUNDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("block", [512, 4096])
def test_what_was_flushed_stays(tmp_path: Path, block: int) -> None:
    rounds = Rounds(tmp_path, block, seed=block)
    for _ in range(ROUNDS // 2):
        rounds.play()
    assert rounds.flushed > ROUNDS
