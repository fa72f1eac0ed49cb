"""The embedded API server: generic over a registry of kinds, durable, watchable."""
