"""The FUSE and CUSE protocol: its messages, the one file that is served, and the session that reads
requests and answers them.
"""
