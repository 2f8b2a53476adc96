"""Memory that is pinned for a device, and how its process is made to show that."""
