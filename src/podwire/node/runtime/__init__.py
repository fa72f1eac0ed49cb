"""The container runtime: sandboxes and containers as processes, outliving the agent that asks for them."""
