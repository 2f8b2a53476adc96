"""VFIO's device files: what Linux's vfio and vfio-pci say on /dev/vfio/devices/vfio0, of a PCI
function of ours (iommud/pci). table.py has a row for each ioctl. A client's descriptors and memory
come from outside (outside.py).
"""
