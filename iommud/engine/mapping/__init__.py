"""Mapping: which IOVAs mean which memory."""
