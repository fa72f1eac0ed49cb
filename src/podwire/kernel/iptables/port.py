"""What may be asked of iptables in one network namespace: whole restore files, as `iptables-restore` takes them."""

from __future__ import annotations

from typing import Protocol


class IptablesPort(Protocol):
    """iptables (version 4) and ip6tables (version 6). Errors: MachineError (room "kernel/iptables")."""

    def restore(self, version: int, script: str) -> None:
        """Apply a script without flushing what it does not name; each table is one transaction.

        Raises Unsupported when the programs are not installed.
        """
        ...

    def save(self, version: int) -> str:
        """Return every table as `iptables-save` prints it; "" when there is none."""
        ...

    def close(self) -> None:
        """Forget the namespace."""
        ...
