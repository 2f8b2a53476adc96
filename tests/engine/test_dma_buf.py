"""dma-bufs: shown by page tables until they are revoked, and then never again."""

from errno import EINVAL, ENODEV, ENOENT, EPERM

from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.dma_buf import DmaBuf, MemoryBuf, dma_buf_slice

from .fakes import RW, P, attach, copy, errno_of, place, unmap
from .world import World


def show(ioas: Ioas, buffer: DmaBuf, start: int, length: int, iova: int, *, writable: bool = True) -> None:
    place(ioas, [dma_buf_slice(buffer, start, length, writable=writable)], iova, RW if writable else 1)


def test_a_device_reads_and_writes_it(world: World) -> None:
    ioas, buffer, device = world.ioas(), MemoryBuf(4 * P), world.device()
    attach(device, ioas)
    show(ioas, buffer, P, 2 * P, 0)
    device.dma_write(P - 2, memoryview(b"abcd"))
    assert bytes(buffer.memory[2 * P - 2 : 2 * P + 2]) == b"abcd"
    data = bytearray(4)
    device.dma_read(P - 2, memoryview(data))
    assert data == b"abcd"
    assert ioas.iopt.translate(5) == ((buffer, P), 5)
    unmap(ioas, 0, 2 * P)
    assert buffer.attached == []


def test_what_is_lost_is_lost_for_ever(world: World) -> None:
    ioas, other, buffer, device = world.ioas(), world.ioas(), MemoryBuf(2 * P), world.device()
    attach(device, ioas)
    show(ioas, buffer, 0, 2 * P, 0)
    copy(ioas, 0, P, other, 0)
    buffer.revoke(True)
    for _ in range(2):
        assert ioas.iopt.translate(0) is None
        assert errno_of(lambda: device.dma_write(0, memoryview(b"x"))) == ENOENT
        assert buffer.memory[0] == 0
        attach(world.device(), other)
        assert other.iopt.translate(0) is None
        buffer.revoke(False)
    assert errno_of(lambda: dma_buf_slice(buffer, 0, 2 * P + 1, writable=True)) == EINVAL
    show(ioas, buffer, 0, P, 2 * P)
    assert ioas.iopt.translate(2 * P) is not None
    assert ioas.iopt.translate(0) is None
    buffer.revoke(True)
    assert errno_of(lambda: dma_buf_slice(buffer, 0, P, writable=True)) == ENODEV
    unmap(ioas, 0, 3 * P)
    unmap(other, 0, P)
    assert buffer.attached == []


def test_accesses_do_not_reach_it(world: World) -> None:
    ioas, buffer = world.ioas(), MemoryBuf(P)
    user = world.user(ioas)
    show(ioas, buffer, 0, P, 0)
    show(ioas, buffer, 0, P, P, writable=False)
    assert errno_of(lambda: user.pin(0, P)) == EINVAL
    assert errno_of(lambda: user.read(0, 1)) == EINVAL
    assert errno_of(lambda: user.write(0, b"x")) == EINVAL
    assert errno_of(lambda: user.write(P, b"x")) == EPERM


def test_nobody_is_charged(world: World) -> None:
    ioas = world.ioas()
    attach(world.device(), ioas)
    show(ioas, MemoryBuf(P), 0, P, 0)
    assert world.host.user_pages.total() == world.host.process_pages.total() == 0
