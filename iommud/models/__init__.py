"""Devices that stand behind an IOMMU and do DMA; docs/devices.md."""
