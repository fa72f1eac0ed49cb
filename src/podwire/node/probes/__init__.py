"""Liveness, readiness and startup probes, and the handlers they share with lifecycle hooks."""
