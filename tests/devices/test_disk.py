"""The bytes behind a disk: opened, grown, refused, read without waiting, made zeros."""

import os
from pathlib import Path

import pytest

from iommud.file.disk import Disk
from iommud.models import disk


@pytest.fixture
def image(tmp_path: Path) -> Path:
    made = tmp_path / "disk.img"
    made.write_bytes(bytes(range(256)) * 16)
    return made


def test_it_is_as_large_as_the_file_in_whole_sectors(image: Path) -> None:
    with image.open("ab") as file:
        file.write(b"rest")
    opened = Disk(str(image))
    assert (opened.size, opened.read(256, 512)) == (4096, bytes(range(256)) * 2)
    opened.close()


def test_it_grows_or_is_made_and_is_never_cut(image: Path, tmp_path: Path) -> None:
    Disk(str(image), size=8192).close()
    assert image.stat().st_size == 8192
    with pytest.raises(ValueError, match="has 8192 bytes, more than size= says"):
        Disk(str(image), size=4096)
    new = tmp_path / "new.img"
    Disk(str(new), size=1 << 20).close()
    assert new.stat().st_size == 1 << 20
    assert image.stat().st_size == 8192


def test_what_cannot_be_a_disk_is_refused_with_a_sentence(image: Path, tmp_path: Path) -> None:
    empty, fifo = tmp_path / "empty", tmp_path / "fifo"
    empty.touch()
    os.mkfifo(fifo)
    for path, size, readonly, why in (
        (tmp_path / "absent", None, False, "No such file or directory; size= makes it"),
        (tmp_path / "absent", 512, True, "No such file or directory$"),
        (tmp_path, None, True, "neither a file nor a block device"),
        (fifo, None, False, "neither a file nor a block device"),
        (empty, None, False, "has not one sector"),
        (image, 8192, True, "has only 4096 bytes, and cannot grow"),
    ):
        with pytest.raises(ValueError, match=why):
            Disk(str(path), size=size, readonly=readonly)
    with pytest.raises(ValueError, match="needs a size="):
        Disk()


def test_one_writes_or_many_read(image: Path) -> None:
    first = Disk(str(image))
    with pytest.raises(ValueError, match=r"in use by somebody else \(readonly=on shares it\)"):
        Disk(str(image))
    first.close()
    reading = [Disk(str(image), readonly=True) for _ in range(2)]
    with pytest.raises(ValueError, match="in use by somebody else"):
        Disk(str(image))
    for each in reading:
        each.close()


def test_it_refuses_without_keeping_the_file_open(image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="never cut"):
        Disk(str(image), size=512)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("where", ["memory", "file"])
def test_it_is_read_and_written(where: str, image: Path) -> None:
    opened = Disk(size=4096) if where == "memory" else Disk(str(image))
    opened.write(512, b"\xaa" * 1024)
    assert opened.read(512, 1024) == opened.read_now(512, 1024) == b"\xaa" * 1024
    opened.zero(512, 512, free=True)
    opened.zero(1024, 256, free=False)
    assert opened.read(512, 1024) == bytes(768) + b"\xaa" * 256
    opened.discard(1024, 512)
    assert opened.read(1024, 512) == bytes(512)
    assert opened.size == os.fstat(opened.fd).st_size == 4096
    opened.flush()
    opened.close()


def test_a_file_that_was_cut_by_somebody_reads_as_zeros(image: Path) -> None:
    opened = Disk(str(image))
    os.truncate(image, 512)
    assert opened.read(0, 1024) == bytes(range(256)) * 2 + bytes(512)
    assert opened.read_now(0, 1024) is None
    opened.close()


def test_what_is_not_in_memory_is_not_waited_for(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x55" * (1 << 20))
    opened = Disk(str(image))
    if opened.is_memory:
        assert opened.read_now(0, 512) == b"\x55" * 512
        return
    opened.flush()
    os.posix_fadvise(opened.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert opened.read_now(512 << 10, 4096) is None
    assert opened.read(512 << 10, 4096) == b"\x55" * 4096
    assert opened.read_now(512 << 10, 4096) == b"\x55" * 4096
    opened.close()


@pytest.mark.parametrize(
    ("text", "found"), [("512", 512), ("64M", 64 << 20), ("1g", 1 << 30), ("2T", 2 << 40), ("4K", 4096)]
)
def test_sizes(text: str, found: int) -> None:
    assert disk.size(text) == found


@pytest.mark.parametrize("text", ["", "0", "513", "M", "-1", "1.5G", "0x200", "9999999999T", "\u0661M", "1KB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        disk.size(text)
