"""Desired values -> what the kernel, files and the API are told. Pure."""
