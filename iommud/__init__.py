"""A /dev/iommu in userspace."""

__version__ = "0.2.0.dev0"
