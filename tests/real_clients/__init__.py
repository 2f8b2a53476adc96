"""Programs of others, unmodified, on an emulated device: `make clients`."""
