"""The system calls and rules of this machine, for our own use. Imports nothing else of cuse_glue
but errors.
"""
