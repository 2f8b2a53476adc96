"""Devices: what is attached to the mappings, and what clients make of it."""
