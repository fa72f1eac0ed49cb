"""ReplicaSets and ReplicationControllers: exactly N pods of one template."""
