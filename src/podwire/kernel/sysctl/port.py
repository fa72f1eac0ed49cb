"""What may be asked of /proc/sys."""

from __future__ import annotations

from typing import Protocol


class SysctlPort(Protocol):
    """Sysctls of the network namespace that the process is in."""

    def get(self, name: str) -> str | None:
        """Return the value of "net/ipv4/ip_forward" ...; None when this kernel has no such knob."""
        ...

    def set(self, name: str, value: str) -> bool:
        """Set it; return False when this kernel has no such knob. Raises NotPermitted."""
        ...
