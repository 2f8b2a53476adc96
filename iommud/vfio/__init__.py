"""VFIO's device files: what Linux's vfio and vfio-pci say on /dev/vfio/devices/vfio0, of a PCI
function of ours (iommud/pci). A row for each ioctl in table.py; what a client's descriptors and
memory are comes from outside.
"""
