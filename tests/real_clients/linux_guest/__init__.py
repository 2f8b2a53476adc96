"""Debian's stock Linux in a QEMU that has emulated disks: it keeps what is written to them."""
