"""How many examples hypothesis tries: as many as the test says, or with `pytest --quick` a tenth.

A profile of hypothesis cannot scale the number that a test gives; it only gives one where the test
gives none. So the profiles here give a percentage.
"""

from hypothesis import settings

WHOLE, QUICK = "whole", "quick"
settings.register_profile(WHOLE, max_examples=100, deadline=None)
settings.register_profile(QUICK, max_examples=10, deadline=None)


def examples(count: int, steps: int = 50) -> settings:
    """For a test that tries `count` examples without `--quick`. `steps`: the most steps of a state
    machine.
    """
    of_a_hundred = settings().max_examples
    return settings(max_examples=max(1, count * of_a_hundred // 100), stateful_step_count=steps, deadline=None)
