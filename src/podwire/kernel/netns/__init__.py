"""Network namespaces: make, pin, enter."""
