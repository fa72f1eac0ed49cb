"""What a kubelet does: pods on one node, their containers as processes, and the node's own objects."""
