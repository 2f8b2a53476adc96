"""The table of a device's file: a row for each ioctl that 7.3's vfio and vfio-pci answer once the
device is bound. The bind itself, which comes before all, is in bind.py.

Ref: v7.3 vfio_main.c vfio_device_fops_unl_ioctl, vfio_pci_core.c vfio_pci_core_ioctl
"""

from typing import Final

from . import attach, features, info, irqs, reset
from .row import op

ROWS: Final = (
    op("ATTACH_IOMMUFD_PT", attach.attach_iommufd_pt, "vfio_device_attach_iommufd_pt", last="pt_id", by_group=False),
    op("DETACH_IOMMUFD_PT", attach.detach_iommufd_pt, "vfio_device_detach_iommufd_pt", last="flags", by_group=False),
    op("FEATURE", features.feature, "vfio_device_feature", last="flags"),
    op("GET_INFO", info.get_info, "vfio_device_info", last="num_irqs"),
    op("GET_IRQ_INFO", info.get_irq_info, "vfio_irq_info", last="count"),
    op("GET_PCI_HOT_RESET_INFO", reset.get_pci_hot_reset_info, "vfio_pci_hot_reset_info", last="count"),
    op("GET_REGION_INFO", info.get_region_info, "vfio_region_info", last="offset"),
    op("IOEVENTFD", irqs.ioeventfd, "vfio_device_ioeventfd", last="fd"),
    op("PCI_HOT_RESET", reset.pci_hot_reset, "vfio_pci_hot_reset", last="count"),
    op("RESET", reset.reset),
    op("SET_IRQS", irqs.set_irqs, "vfio_irq_set", last="count"),
)
