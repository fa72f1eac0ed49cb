"""The pod network between nodes: VXLAN and host-gw, flannel-compatible."""
