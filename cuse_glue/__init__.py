"""What a device file in userspace needs of Linux: the FUSE and CUSE protocol, and a way to the
processes behind its requests.
"""
