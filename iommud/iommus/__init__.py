"""What a device stands behind: one file for each kind of IOMMU."""
