"""VFIO's device files without a client, a file system or time."""
