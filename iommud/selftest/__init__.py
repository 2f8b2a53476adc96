"""The kernel's test driver, all of it: its command, and its mock devices. It is there only with
`--mock`. Ref: v7.3 selftest.c
"""
