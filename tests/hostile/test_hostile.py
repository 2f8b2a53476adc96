"""Whatever one client does: others do not wait for it, nothing is written astray, and the daemon
can be killed, replaced and stopped.

About a second for each attack; `make hostile` takes a minute. What an attack does is said in
attackers/*.c.
"""

import pytest

from tests.hostile.attacks import ATTACKS, BUSY, MOCK, SETUID, Attack
from tests.hostile.stage import Stage

SECONDS = 0.8
SETUID_SECONDS = 4.0
# `make hostile` allows a tenth of a second. Here dozens of attackers want two processors, and a
# test must not fail because of that. A daemon that an attack holds up is held up for as long as the
# attack lasts, so half a second is enough to see it.
HELD_UP = 0.5


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_nobody_else_is_harmed(stage: Stage, attack: Attack) -> None:
    """Judged are other clients' longest call and refusals, the end by SIGKILL (within a second), a
    new daemon (within two), and the log.
    """
    result = stage.run(attack, SECONDS, limit=HELD_UP)
    assert not result.wrong, "\n".join(result.wrong)


@pytest.mark.parametrize("beside", [(), (BUSY,)], ids=["", "busy"])
def test_nothing_is_written_into_a_set_user_id_program(stage: Stage, beside: tuple[Attack, ...]) -> None:
    """Also by a daemon that is kept busy, which writes later."""
    result = stage.run(SETUID, SETUID_SECONDS, *beside, limit=HELD_UP)
    print(result.tries, "tries")
    assert result.tries > 0
    assert not result.wrong, "\n".join(result.wrong)


def test_it_ends_when_told_to_under_many_attacks_at_once(stage: Stage) -> None:
    attacks = [attack for attack in ATTACKS if attack.flags == MOCK and attack.program in ("memory", "hands", "files")]
    wrong = stage.terminate_under(*attacks)
    assert not wrong, "\n".join(wrong)
