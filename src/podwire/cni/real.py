"""podwire-cni on the real kernel."""

from __future__ import annotations

from podwire.cni.plugin import Kernel
from podwire.kernel.conntrack.real import RealConntrack
from podwire.kernel.link.port import LinkPort
from podwire.kernel.link.real import RealLinks
from podwire.kernel.netns.real import RealNetns
from podwire.kernel.nft.real import RealNft
from podwire.kernel.route.port import RoutePort
from podwire.kernel.route.real import RealRoutes
from podwire.kernel.sysctl.real import RealSysctl


def open_pod() -> tuple[LinkPort, RoutePort]:
    """Return links and routes of the namespace that the thread is in, on one socket."""
    links = RealLinks()
    return links, RealRoutes(links.socket)


def real_kernel() -> Kernel:
    """Return the kernel of the network namespace that the caller is in (the node's)."""
    return Kernel(RealLinks(), RealNetns(), RealSysctl(), RealLinks, open_pod, RealNft, RealConntrack)
