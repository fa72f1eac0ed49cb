"""Desired rules -> kernel transactions, one module a backend."""
