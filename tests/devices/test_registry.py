"""`--device MODEL[,key=value...]`: what is read, and the sentences for what is not."""

import pytest

from iommud.file.disk import Disks
from iommud.models.edu import Edu
from iommud.models.registry import MODELS, BadDevice, DeviceSpec, asked_for_help, from_anywhere, make, parse
from iommud.pci.address import Address
from iommud.pci.function import Slot

KINDS = ("vtd", "amd")
DISKS = {"nvme", "virtio-blk"}  # which must be told how large they are


def test_a_model_alone_is_enough() -> None:
    assert parse("edu", KINDS) == DeviceSpec("edu")
    assert parse("null", KINDS) == DeviceSpec("null", None, None, None, True, "vfio-pci", {})


def test_every_key() -> None:
    said = "edu,bdf=0000:E1:1f.7,iommu=amd,group=12,mmap=off,driver=none,dma_mask=0xffffffff,dma_time=250"
    assert parse("edu,driver=snd-hda_intel2", KINDS).driver == "snd-hda_intel2"
    expect = DeviceSpec(
        "edu", Address(0, 0xE1, 31, 7), "amd", 12, False, "none", {"dma_mask": 0xFFFFFFFF, "dma_time": 0.25}
    )
    assert parse(said, KINDS) == expect


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("ed", "there is no model 'ed': there are edu, ioat, null, nvme and virtio-blk"),
        ("", "there is no model '': there are edu, ioat, null, nvme and virtio-blk"),
        ("edu,", "edu has no key '': there are bdf, iommu, group, mmap, driver, dma_mask and dma_time"),
        ("null,dma_mask=1", "null has no key 'dma_mask': there are bdf, iommu, group, mmap and driver"),
        ("edu,bdf", "edu: bdf needs a value: bdf=SSSS:BB:DD.F"),
        ("edu,bdf=e0:00.0,bdf=e0:01.0", "edu: bdf is given twice"),
        ("edu,dma_time=1,dma_time=1", "edu: dma_time is given twice"),
        ("edu,iommu=arm", "edu: iommu is one of vtd and amd, not 'arm'"),
        ("edu,mmap=yes", "edu: mmap is on or off, not 'yes'"),
        ("edu,driver=", "edu: driver is vfio-pci, none or a driver's name of letters, digits, _ and -, not ''"),
        ("edu,driver=../x", "edu: driver is vfio-pci, none or a driver's name of letters, digits, _ and -, not '../x'"),
        ("edu,group=-1", "edu: group is a whole number from 0x0 to 0xffff, not '-1'"),
        ("edu,group=many", "edu: group is a whole number from 0x0 to 0xffff, not 'many'"),
        ("edu,dma_time=60001", "edu: dma_time is milliseconds, from 0 to 60000, not '60001'"),
        ("edu,dma_time=\u0663", "edu: dma_time is milliseconds, from 0 to 60000, not '\u0663'"),
    ],
)
def test_what_makes_no_sense_is_answered_by_a_sentence(said: str, sentence: str) -> None:
    with pytest.raises(BadDevice) as refused:
        parse(said, KINDS)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "place", ["0", "e0:20.0", "e0:00.8", "0000:e0:00", "g0:00.0", "0000:e0:00.0 ", "00000:e0:00.0"]
)
def test_a_bdf_has_one_form(place: str) -> None:
    with pytest.raises(BadDevice, match=r"is not where a PCI device can be: 0000:e0:00\.0 is segment, bus"):
        parse(f"edu,bdf={place}", KINDS)


def test_it_is_made_with_its_options() -> None:
    made = make(parse("edu,bdf=0001:02:03.4,dma_mask=0xff", KINDS), Slot(Address(1, 2, 3, 4)))
    assert isinstance(made, Edu)
    assert str(made.address) == "0001:02:03.4"


@pytest.mark.parametrize("model", MODELS)
def test_every_model_can_be_made(model: str) -> None:
    said = f"{model},size=1M" if model in DISKS else model
    made = make(parse(said, KINDS), Slot(storage=Disks().of("device")))
    assert made.name == model
    assert made.load(0, 0, 4) >= 0


def test_help() -> None:
    listing = asked_for_help("help", KINDS)
    assert listing is not None
    assert listing.splitlines()[:4] == [
        "models:",
        "  edu        QEMU's educational device: a few registers, INTx and MSI, DMA of 4 KiB; 1234:11e8",
        "  ioat       Intel's I/O DMA engine: copies and fills memory by chains of descriptors; 8086:2021",
        "  null       one BAR in which there is nothing",
    ]
    assert "  iommu=vtd|amd                what it stands behind (default: --iommu's, or vtd)" in listing.splitlines()
    assert "  driver=vfio-pci|none|NAME" in listing
    assert asked_for_help("edu,help", KINDS) == (
        "edu: QEMU's educational device: a few registers, INTx and MSI, DMA of 4 KiB; 1234:11e8\n"
        "keys of its own:\n"
        "  dma_mask=MASK                the bits of an IOVA that it has (default: 0xfffffff, 28 bits)\n"
        "  dma_time=MS                  how long a DMA takes (default: 100, as QEMU's)"
    )
    assert asked_for_help("null,help", KINDS) == "null: one BAR in which there is nothing\nIt has no keys of its own."
    assert asked_for_help("edu,bdf=e0:00.0", KINDS) is None
    with pytest.raises(BadDevice, match="there is no model 'no'"):
        asked_for_help("no,help", KINDS)


def test_a_path_is_said_for_any_directory() -> None:
    found = from_anywhere("nvme,file=a/b.img,size=1M", KINDS, "/home/{}".format)
    assert found == "nvme,file=/home/a/b.img,size=1M"
    assert from_anywhere("edu,dma_mask=0xff", KINDS, "/home/{}".format) == "edu,dma_mask=0xff"
    with pytest.raises(BadDevice, match="no key"):
        from_anywhere("edu,file=x", KINDS, str)


def test_a_slot_without_storage_has_no_disks() -> None:
    with pytest.raises(BadDevice, match="nvme: there is no storage here"):
        make(parse("nvme,size=1M", KINDS), Slot())
