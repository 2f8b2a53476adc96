"""Mounts and mount namespaces."""
