"""The kernel's side of a device in userspace: FUSE and CUSE, and the processes behind their requests."""
