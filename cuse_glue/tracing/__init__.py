"""A client's thread under our control (ptrace), and what is done with it."""
