"""The watcher: a small process that answers those system calls of a program about which FUSE does
not ask its server.
"""
