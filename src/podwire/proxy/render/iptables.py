"""Names of iptables chains, exactly as kube-proxy makes them. Pure.

The name is a prefix and the first 16 characters of the base32 of a SHA-256: iptables allows 28 characters.
"""

from __future__ import annotations

import base64
import hashlib

from podwire.model.objects import Key

_HASH_CHARS = 16


def _chain(prefix: str, text: str) -> str:
    return prefix + base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:_HASH_CHARS]


def _port_text(service: Key, port: str, protocol: str) -> str:
    return f"{service}:{port}" + protocol.lower() if port else str(service) + protocol.lower()


def service_chain(service: Key, port: str, protocol: str) -> str:
    """Return KUBE-SVC-...: all endpoints of a Service port. ``port`` is its name, "" for none."""
    return _chain("KUBE-SVC-", _port_text(service, port, protocol))


def local_chain(service: Key, port: str, protocol: str) -> str:
    """Return KUBE-SVL-...: the endpoints of this node."""
    return _chain("KUBE-SVL-", _port_text(service, port, protocol))


def external_chain(service: Key, port: str, protocol: str) -> str:
    """Return KUBE-EXT-...: traffic from outside the cluster."""
    return _chain("KUBE-EXT-", _port_text(service, port, protocol))


def firewall_chain(service: Key, port: str, protocol: str) -> str:
    """Return KUBE-FW-...: loadBalancerSourceRanges."""
    return _chain("KUBE-FW-", _port_text(service, port, protocol))


def endpoint_chain(service: Key, port: str, protocol: str, endpoint: str) -> str:
    """Return KUBE-SEP-...: one endpoint, given as "10.244.1.99:53" or "[fd00::1]:53"."""
    return _chain("KUBE-SEP-", _port_text(service, port, protocol) + endpoint)
