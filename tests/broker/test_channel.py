"""The stream of requests to a worker: each comes out whole, however the pipe cuts it."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuse_glue.broker.channel import Assignment, Requests, assignment, read_assignment
from cuse_glue.fuse import wire
from cuse_glue.fuse.node import MAX_WRITE


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def message(number: int, length: int) -> bytes:
    header = wire.IN_HEADER.pack(wire.REQUEST_HEADER_SIZE + length, wire.WRITE, number, 1, 0, 0, 0, 0, 0)
    return header + bytes([number & 0xFF]) * length


@settings(deadline=None)
@given(
    lengths=st.lists(
        st.sampled_from((0, 32, 72, 4096, 60_000, MAX_WRITE + wire.WRITE_IN.size)), min_size=1, max_size=12
    ),
    cut=st.integers(1, 65536),
)
def test_each_request_comes_out_whole(lengths: list[int], cut: int) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    try:
        sent = [message(number, length) for number, length in enumerate(lengths)]
        stream = b"".join(sent)
        requests = Requests(reading)
        came: list[bytes] = []
        position = 0
        while len(came) < len(sent):
            taken = requests.take()
            if taken is not None:
                came.append(bytes(taken))
                continue
            try:
                position += os.write(writing, stream[position : position + cut])
            except BlockingIOError:
                pass  # there was no room for more in the buffer, and the pipe is full now
            assert requests.fill()
        assert came == sent
        assert requests.take() is None
    finally:
        os.close(reading)
        os.close(writing)


def test_an_empty_pipe_is_no_end(pipe: tuple[int, int]) -> None:
    with pytest.raises(BlockingIOError):
        Requests(pipe[0]).fill()


def test_the_end_is_told() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    assert not Requests(reading).fill()
    os.close(reading)


@settings(deadline=None)
@given(
    st.builds(Assignment, st.integers(0, 9), st.integers(0, 0xFFFFFFFF), st.booleans(), st.booleans()),
)
def test_an_assignment_is_read_as_it_was_written(what: Assignment) -> None:
    assert read_assignment(memoryview(assignment(what))) == what


def test_no_request_is_taken_for_an_assignment() -> None:
    with pytest.raises(ValueError, match="no assignment"):
        read_assignment(memoryview(message(1, 16)))
