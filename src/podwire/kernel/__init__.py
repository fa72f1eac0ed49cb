"""The only rooms that touch the machine. Each has values, port, real and fake."""
