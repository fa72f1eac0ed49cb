"""podwire: the whole Kubernetes network, in Python, on the real Linux kernel."""

__version__ = "0.1.0"
KUBERNETES_VERSION = "1.36.0"  # the release whose API and defaults podwire follows
