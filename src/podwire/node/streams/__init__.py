"""exec, attach and port-forward as they arrive at the node: WebSocket channels and SPDY streams."""
