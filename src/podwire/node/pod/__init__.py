"""One pod on its node: what it needs, what it is, what to do next."""
