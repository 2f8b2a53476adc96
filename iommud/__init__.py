"""A /dev/iommu in userspace."""

__version__ = "0.1.0"
