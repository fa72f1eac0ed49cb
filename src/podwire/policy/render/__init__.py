"""Desired -> kernel."""
