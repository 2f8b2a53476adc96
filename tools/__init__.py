"""What makes files of the tree from its code: `make docs`."""
