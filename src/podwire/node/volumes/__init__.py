"""A pod's volumes: what they hold, and how that gets onto the node's disk."""
