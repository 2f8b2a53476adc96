"""How many examples hypothesis tries: as many as the test says, or with `pytest --quick` a tenth.

A profile of hypothesis cannot scale what a test says, only replace what it does not say. So the
profiles say how many of a hundred.
"""

from hypothesis import settings

WHOLE, QUICK = "whole", "quick"
settings.register_profile(WHOLE, max_examples=100, deadline=None)
settings.register_profile(QUICK, max_examples=10, deadline=None)


def examples(count: int, steps: int = 50) -> settings:
    """For a test that tries `count` examples when all is tried out; `steps`: of a state machine, at
    most.
    """
    of_a_hundred = settings().max_examples
    return settings(max_examples=max(1, count * of_a_hundred // 100), stateful_step_count=steps, deadline=None)
