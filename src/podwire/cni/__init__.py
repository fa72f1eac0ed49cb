"""The CNI plugin, its IPAM, and the invoker that a container runtime uses."""
