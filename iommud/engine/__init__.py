"""What the ioctls mean, in three floors: memory < mapping < device. Pure: no trio, no os, no
cffi.
"""
