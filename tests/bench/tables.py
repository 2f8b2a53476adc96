"""Page tables: what is dirty in one, a nested one's invalidation, and how long it takes to fill
one. Nothing to compare them with.

What is dirty is read and cleared by one ioctl over all of a page table, every page of which is
mapped, one bit for 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from tests.bench.rig import ONE_CORE, Bench, Effort, Row, in_turns, short, size

PAGE = 4096
BATCHES = 10  # each of one ioctl, that is long enough
SOME = 1000  # pages


def tracked(bench: Bench) -> Iterator[Row]:
    client = bench.run("tables", mock=True)
    length = bench.effort.tracked
    client.ask("track", length)
    bench.place(ONE_CORE, client)
    for pages in (0, SOME, length // PAGE):
        yield Row(dirty_name(bench.effort, pages), "us", *_us(bench, partial(client.ask, "dirty", pages)))


def changed(bench: Bench) -> Iterator[Row]:
    client = bench.run("tables", mock=True)
    effort = bench.effort
    client.ask("nest")
    bench.place(ONE_CORE, client)
    yield Row(invalidate_name(effort), "us", *_us(bench, partial(client.ask, "invalidate", effort.entries)))
    client.ask("fill", effort.filled)
    yield Row(fill_name(effort, "attach"), "us", *_us(bench, partial(client.ask, "attach")))
    yield Row(fill_name(effort, "replace"), "us", *_us(bench, partial(client.ask, "replace")))


def _us(bench: Bench, measure: Callable[[], int]) -> tuple[float, ...]:
    return in_turns(min(bench.effort.batches, BATCHES), lambda: measure() / 1000)


def dirty_name(effort: Effort, pages: int) -> str:
    what = {0: "clean", effort.tracked // PAGE: "all dirty"}.get(pages, f"{pages:,} pages dirty")
    return f"GET_DIRTY_BITMAP {size(effort.tracked)}, {what}"


def invalidate_name(effort: Effort) -> str:
    return f"HWPT_INVALIDATE, {effort.entries:,} entries"


def fill_name(effort: Effort, act: str) -> str:
    return f"{act} a mock device, {short(effort.filled)} areas"


def names(effort: Effort) -> set[str]:
    """All rows; none has a peer."""
    dirty = {dirty_name(effort, pages) for pages in (0, SOME, effort.tracked // PAGE)}
    return dirty | {invalidate_name(effort), fill_name(effort, "attach"), fill_name(effort, "replace")}
