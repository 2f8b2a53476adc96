"""The ioctls that give descriptors, as who must know them before they are made has them."""

import pytest

from iommud.ops import giving
from iommud.uapi.header import const


def test_the_numbers_are_the_headers() -> None:
    assert const("IOMMU_FAULT_QUEUE_ALLOC") == giving.FAULT_QUEUE_ALLOC
    assert const("IOMMU_VEVENTQ_ALLOC") == giving.VEVENTQ_ALLOC
    assert const("IOMMU_TEST_CMD") == giving.TEST_CMD
    assert const("IOMMU_TEST_OP_CREATE_ACCESS") == giving.CREATE_ACCESS
    assert const("IOMMU_TEST_OP_DMABUF_GET") == giving.DMABUF_GET
    assert const("VFIO_DEVICE_FEATURE") == giving.VFIO_FEATURE
    assert const("VFIO_GROUP_GET_DEVICE_FD") == giving.VFIO_GROUP_GET_DEVICE_FD
    assert const("VFIO_DEVICE_FEATURE_GET") | const("VFIO_DEVICE_FEATURE_DMA_BUF") == giving.GET_DMA_BUF


def test_what_gives_a_dma_buf_of_a_device_is_picked_where_there_are_devices() -> None:
    wanted = {giving.VFIO_FEATURE: (giving.GET_DMA_BUF,), giving.VFIO_GROUP_GET_DEVICE_FD: None}
    assert giving.picked(mock=False, devices=True) == giving.picked(mock=False, devices=False) | wanted


@pytest.mark.parametrize(
    ("mock", "uid", "test_ioctl"), [(False, 0, False), (False, 9, False), (True, 0, False), (True, 9, True)]
)
def test_the_test_ioctl_is_looked_into_for_ordinary_users_only(
    monkeypatch: pytest.MonkeyPatch, mock: bool, uid: int, test_ioctl: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    picked = giving.picked(mock=mock, devices=False)
    queues = {giving.FAULT_QUEUE_ALLOC: None, giving.VEVENTQ_ALLOC: None}
    assert picked == queues | ({giving.TEST_CMD: (giving.CREATE_ACCESS, giving.DMABUF_GET)} if test_ioctl else {})
