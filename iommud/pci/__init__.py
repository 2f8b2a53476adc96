"""An emulated PCI function: its configuration space, BARs, interrupts and DMA, and how Linux's
vfio-pci shows it.

Three layers, each of which knows only those before it:

- The *function* (function.py) is hardware. A model derives from `PciFunction` and writes what is
  behind its BARs; the registers that every function has are in space.py, capabilities.py, bars.py
  and messages.py.
- The *host* (host.py) is what Linux's PCI core does to it: enable, mask, power, reset, message
  interrupts.
- *vfio-pci* (vfio_pci.py) is what a client has of it: a copy of configuration space with rules for
  each bit (config.py, permissions.py), regions (regions.py), interrupts with triggers
  (interrupts.py), eventfds that store (ioeventfds.py).

Nothing in here waits, reads a file or knows a descriptor. What it needs from outside are three
protocols: `Scheduler` (time), `Descriptors` with `Trigger` and `Ear` (the client's eventfds), and,
for DMA, the `Device` that `PciFunction.bind` makes.

To show a function to clients:

    slot = Slot(address, scheduler, windows, group)
    function = registry.make(spec, slot)           # iommud.models.registry
    vfio = VfioPci(Host(function), mappable=True)  # it is bound to vfio-pci
    device = function.bind(context, iommu)         # BIND_IOMMUFD: an engine Device, to be attached
    opened = vfio.open()                           # from here on:
    opened.regions.info(index)                     # GET_REGION_INFO: RegionInfo
    opened.regions.read(position, length)          # pread: bytes, fewer at a region's end
    opened.regions.write(position, data)           # pwrite: how many
    opened.regions.map(position, length, shared=)  # mmap: (BAR, offset)
    opened.regions.load(bar, offset, size)         # one trapped access; EIO is a SIGBUS
    opened.regions.store(bar, offset, size, value)
    opened.irqs.info(index)                        # GET_IRQ_INFO: flags, count
    opened.irqs.check(IrqSet(...))                 # SET_IRQS: bytes of data that follow, then
    opened.irqs.set(IrqSet(...), data, descriptors)
    opened.ioeventfds.set(position, data, size, fd, descriptors)
    opened.memory_changed = callback               # BARs of memory answer, or mappings must go
    vfio.reset_works, vfio.reset()                 # VFIO_DEVICE_FLAGS_RESET, VFIO_DEVICE_RESET
    vfio.close()                                   # and function.unbind()

And to have more than one, with /sys: `Bus` (bus.py: what is there, what vfio-pci has, bind, unbind,
remove, rescan) instead of Host and VfioPci, `Users` for who has the device files, and
`SysfsTree(bus, Machine(...))` (sysfs_tree.py).

Everything that is refused is an `IoctlError` with Linux 7.3's errno.
"""
