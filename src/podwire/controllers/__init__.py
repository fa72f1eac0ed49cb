"""The control loops of a cluster: workloads, scheduling, endpoints, addresses, garbage."""
