"""list/watch against any Kubernetes API server. Nothing here knows which one it is."""
