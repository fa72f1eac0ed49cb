"""Garbage collection by ownerReferences: background, foreground, orphan; over every kind that is served."""
