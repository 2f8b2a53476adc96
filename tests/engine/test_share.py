"""Hosts that share a user: pins are counted for all of them, and objects come out of one share."""

from collections import Counter
from collections.abc import Hashable
from errno import ENOMEM, EPERM

import pytest

from iommud.engine.device.context import Context
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.host import Host
from iommud.engine.memory.origin import PAGE_SIZE
from iommud.errors import IoctlError

QUANTUM = 4


class Pool:
    """What all hosts have together."""

    def __init__(self, most: int = 1 << 40) -> None:
        self.pinned: Counter[Hashable] = Counter()
        self.granted = 0
        self.most = most
        self.claims: dict[Hashable, object] = {}


class PartOf:
    """One host's share of the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._mine: Counter[Hashable] = Counter()

    def pinned_by_user(self, uid: int, npages: int) -> int:
        return self._count(("user", uid), npages)

    def pinned_of_process(self, mm: Hashable, npages: int) -> int:
        return self._count(("process", mm), npages)

    def _count(self, key: Hashable, npages: int) -> int:
        self._pool.pinned[key] += npages
        self._mine[key] += npages
        return self._pool.pinned[key] - self._mine[key]

    def grant(self, granted: int) -> int:
        if self._pool.granted + QUANTUM > self._pool.most:
            raise IoctlError(ENOMEM, "the share")
        self._pool.granted += QUANTUM
        return granted + QUANTUM

    def give_back(self, granted: int, standing: int) -> int:
        spare = (granted - standing) // QUANTUM * QUANTUM
        self._pool.granted -= spare
        return granted - spare

    def claim(self, name: Hashable) -> bool:
        return self._pool.claims.setdefault(name, self) is self

    def release(self, name: Hashable) -> None:
        del self._pool.claims[name]

    def count(self, name: Hashable, more: int) -> int:
        assert not more
        return int(self._pool.claims.get(name, self) is not self)


class Payer:
    """An origin as far as limits go. `limit`: pages."""

    uid = 1000
    mm = "space"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def memlock_limit(self) -> int | None:
        return self._limit * PAGE_SIZE

    def locked_pages(self) -> int:
        return 1


def test_pins_of_a_user_are_counted_everywhere() -> None:
    pool = Pool()
    one, other = Host(PartOf(pool)), Host(PartOf(pool))
    payer = Payer(10)
    one.charge_user(payer, 6, PAGE_SIZE)  # type: ignore[arg-type]
    with pytest.raises(IoctlError, match="would have 11 pages pinned") as refused:
        other.charge_user(payer, 5, PAGE_SIZE)  # type: ignore[arg-type]
    assert refused.value.errno == ENOMEM
    assert pool.pinned == {("user", 1000): 6}, "what was refused is not counted"
    other.charge_user(payer, 4, PAGE_SIZE)  # type: ignore[arg-type]
    one.uncharge_user(payer, 6)  # type: ignore[arg-type]
    other.charge_user(payer, 6, PAGE_SIZE)  # type: ignore[arg-type]
    assert other.user_pages == {1000: 10}
    assert one.empty()


def test_pins_of_a_process_are_counted_everywhere() -> None:
    pool = Pool()
    one, other = Host(PartOf(pool)), Host(PartOf(pool))
    payer = Payer(10)
    one.charge_process(payer, 5, PAGE_SIZE)  # type: ignore[arg-type]
    with pytest.raises(IoctlError, match="would have 10 pages pinned"):
        other.charge_process(payer, 5, PAGE_SIZE)  # type: ignore[arg-type]
    other.charge_process(payer, 4, PAGE_SIZE)  # type: ignore[arg-type]
    other.uncharge_process(payer, 4)  # type: ignore[arg-type]
    one.uncharge_process(payer, 5)  # type: ignore[arg-type]
    assert +pool.pinned == Counter()
    assert one.empty()
    assert other.empty()


def test_objects_come_out_of_one_share() -> None:
    pool = Pool(most=3 * QUANTUM)
    one, other = Host(PartOf(pool)), Host(PartOf(pool))
    first, second = Context(one), Context(other)
    made = [reserve(first) for _ in range(2 * QUANTUM - 1)]
    assert pool.granted == 3 * QUANTUM
    for _ in range(QUANTUM - 1):
        reserve(second)
    with pytest.raises(IoctlError, match="the share") as refused:
        reserve(second)
    assert refused.value.errno == ENOMEM
    assert len(second.objects) == QUANTUM - 1
    for ioas in made:
        first.objects.remove(ioas.id)
    assert pool.granted == 3 * QUANTUM - QUANTUM, "what is not needed is given back, but for a little"
    reserve(second)
    first.put()
    second.put()
    assert pool.granted == 0
    assert one.standing == other.standing == 0


def test_a_context_is_one_of_them() -> None:
    pool = Pool(most=QUANTUM)
    host = Host(PartOf(pool))
    contexts = [Context(host) for _ in range(QUANTUM)]
    with pytest.raises(IoctlError, match="the share"):
        Context(host)
    for context in contexts:
        context.put()
    Context(host).put()


def reserve(context: Context) -> Ioas:
    ioas = Ioas(context.host)
    context.objects.reserve(ioas)
    context.objects.publish(ioas)
    return ioas


def test_a_group_belongs_to_one_host_and_there_to_one_context() -> None:
    pool = Pool(most=1)
    one, other = Host(PartOf(pool)), Host(PartOf(pool))
    first, second, third = object(), object(), object()
    one.claim("group 7", first)
    one.claim("group 7", first)
    for host, owner in (one, second), (other, third):
        with pytest.raises(IoctlError, match="belongs to another context") as refused:
            host.claim("group 7", owner)
        assert refused.value.errno == EPERM
    other.claim("group 8", third)
    one.release("group 7")
    other.claim("group 7", third)
    assert one.empty()
    other.release("group 7")
    other.release("group 8")
    assert other.empty()
    assert pool.claims == {}
