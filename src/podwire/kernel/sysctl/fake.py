"""Sysctls in memory: the knobs that podwire touches, with the kernel's defaults. See ``kernel.fake``."""

from __future__ import annotations

import re

from podwire.kernel.fake import FakeMachine, FakeNamespace

_DEFAULTS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/forwarding": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/route_localnet": "0",
    "net/ipv4/ip_unprivileged_port_start": "1024",
    "net/ipv6/conf/all/forwarding": "0",
    "net/ipv6/conf/default/forwarding": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/netfilter/nf_conntrack_count": "0",
    "net/netfilter/nf_conntrack_max": "262144",
}
_PER_LINK = re.compile(r"net/(ipv4|ipv6)/(conf|neigh)/([^/]+)/[a-z0-9_]+")


class FakeSysctl:
    """See ``kernel.sysctl.port``. Knobs per link are there when the link is."""

    def __init__(self, machine: FakeMachine | None = None) -> None:
        self.machine = machine or FakeMachine()
        self.namespace: FakeNamespace = self.machine.current

    def get(self, name: str) -> str | None:
        """Return the value, or None when there is no such knob."""
        if name in self.namespace.sysctls:
            return self.namespace.sysctls[name]
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        match = _PER_LINK.fullmatch(name)
        known = match and (match[3] in ("all", "default") or self.namespace.named(match[3]))
        return "0" if known else None

    def set(self, name: str, value: str) -> bool:
        """Set it; return False when there is no such knob."""
        if self.get(name) is None:
            return False
        self.namespace.sysctls[name] = value
        return True
