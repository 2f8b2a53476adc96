"""What a small file system of ours shows: directories, links, and files that are read and written
by calls. Who serves it is cuse_glue.fuse.tree_node.
"""
