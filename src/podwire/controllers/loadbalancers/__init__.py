"""Addresses for Services of type LoadBalancer, from pools, and the node that answers for each."""
