"""An NVM Express controller with a disk behind it; docs/nvme.md."""
