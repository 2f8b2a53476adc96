"""Bytes: the structs and numbers of IOMMUFD as they cross the file. Pure."""
