"""Deployments: a history of ReplicaSets and the way from one to the next."""
