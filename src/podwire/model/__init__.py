"""Frozen values that every room may use: objects, names, resources, errors. Pure."""
