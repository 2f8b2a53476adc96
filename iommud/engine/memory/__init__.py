"""Memory: whose it is, what of it is held, and who pays for that."""
