"""``/run/flannel/subnet.env``: what CNI plugins are told, line for line as flannel writes it."""

from __future__ import annotations

from collections.abc import Sequence

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home
from podwire.fabric.render import vxlan

_PREFIX = {4: "FLANNEL", 6: "FLANNEL_IPV6"}


def pod_mtu_bytes(config: FabricConfig, homes: Sequence[Home]) -> int:
    """Return the MTU of pods: of dual stack the smaller one, as a pod has one interface for both."""
    if config.backend == "vxlan":
        return min(vxlan.mtu_bytes(config, home) for home in homes)
    return config.mtu_bytes or min(home.underlay_mtu_bytes for home in homes)


def render(config: FabricConfig, homes: Sequence[Home]) -> str:
    """Return the file's text. The subnet is told as the gateway's address with the subnet's length."""
    lines = []
    for home in homes:
        lines.append(f"{_PREFIX[home.version]}_NETWORK={home.network}")
        lines.append(f"{_PREFIX[home.version]}_SUBNET={home.gateway}/{home.subnet.prefixlen}")
    lines.append(f"FLANNEL_MTU={pod_mtu_bytes(config, homes)}")
    lines.append("FLANNEL_IPMASQ=true")
    return "\n".join(lines) + "\n"
