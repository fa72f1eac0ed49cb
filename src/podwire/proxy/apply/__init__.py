"""Rendered rules -> this machine's kernel, one file a mode."""
