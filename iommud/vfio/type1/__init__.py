"""VFIO's type1 driver, as Linux has it without IOMMUFD: what a container does once it has an IOMMU
(`--vfio type1`).
"""
