"""The pod network between nodes, compatible with flannel: VXLAN and host-gw.

Nodes, ConfigMap -> plan (a Path per peer) -> render (routes, neighbours, FDB) -> apply
"""
