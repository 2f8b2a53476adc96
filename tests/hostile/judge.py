"""What an innocent client measured, and how much of it is the attacked daemon's doing.

On a busy machine anybody may be kept from running for a while. So at the same time another innocent
client uses another daemon, which nobody attacks. Both clients also measure how late they wake from
a sleep. The time that a call took does not count while a call of the other client, or a sleep of
either, was slow as well: that was the machine. What is left was the attacked daemon, and is not
excused. If the other client's calls are slow again and again, at other moments, that much is
allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LIMIT = 0.1  # seconds that a call may take longer because of somebody else
SLEEP = "sleep"
MOST = 0.2  # seconds that are excused to a machine that is busy all the time
NANO = 1e9


@dataclass(frozen=True)
class Slow:
    """A call, or a sleep, that took long. Seconds, of one clock."""

    kind: str
    begin: float
    end: float


@dataclass
class Report:
    """What innocent.c printed. `longest`: seconds, by kind."""

    counts: dict[str, int] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)
    slow: list[Slow] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def longest_call(self) -> float:
        return max((took for kind, took in self.longest.items() if kind != SLEEP), default=0.0)


def parse(text: str) -> Report:
    """The report of a client that has ended. ValueError: it said something else."""
    report = Report()
    for line in text.splitlines():
        match line.split():
            case ["ready"]:
                pass
            case ["slow", kind, begin, end]:
                report.slow.append(Slow(kind, int(begin) / NANO, int(end) / NANO))
            case ["wrong", kind, error]:
                report.wrong.append(f"{kind}: {error}")
            case [kind, count, longest]:
                report.counts[kind] = int(count)
                report.longest[kind] = int(longest) / 1e6
            case _:
                raise ValueError(f"an innocent client said {line!r}")
    return report


def merged(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time, in intervals that do not touch."""
    result: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def held_up(attacked: Report, control: Report) -> float:
    """The longest time in one call of `attacked` in which the machine was not slow for others as
    well; seconds.
    """
    machine = merged(
        [(slow.begin, slow.end) for slow in control.slow]
        + [(slow.begin, slow.end) for slow in attacked.slow if slow.kind == SLEEP]
    )
    # Calls that were not slow enough to be noted one by one are not excused at all.
    noted = [slow for slow in attacked.slow if slow.kind != SLEEP]
    result = 0.0 if noted else attacked.longest_call
    for slow in noted:
        excused = sum(max(0.0, min(end, slow.end) - max(begin, slow.begin)) for begin, end in machine)
        result = max(result, slow.end - slow.begin - excused)
    return result


def usual_delay(control: Report) -> float:
    """What a client whose daemon nobody attacks had to wait again and again: its third longest
    call; seconds, MOST at most.
    """
    calls = sorted((slow.end - slow.begin for slow in control.slow if slow.kind != SLEEP), reverse=True)
    return min(MOST, calls[2]) if len(calls) > 2 else 0.0
