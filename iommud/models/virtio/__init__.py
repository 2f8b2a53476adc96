"""virtio devices on PCI, version 1.2: wire.py has the names, transport.py the PCI function with its
registers (common.py), ring.py what the two kinds of rings (split.py, packed.py) have in common,
chain.py what a driver puts into them; blk.py is the block device.
"""
