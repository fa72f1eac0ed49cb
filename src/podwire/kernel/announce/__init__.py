"""Addresses that a machine answers for on its network segment without being configured with them."""
