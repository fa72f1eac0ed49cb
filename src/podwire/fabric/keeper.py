"""Keeps the kernel as the ledger wants it: everything at once, or one peer. Synchronous."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_interface

from podwire.fabric import apply
from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Entries, Home, Site, join
from podwire.fabric.plan import BACKEND_DATA, BACKEND_TYPE, Ledger, parse_backend, read_site
from podwire.fabric.render import hostgw, vxlan
from podwire.kernel.link.monitor import Change
from podwire.kernel.link.port import LinkPort
from podwire.kernel.link.values import FdbEntry, IPAddress, Link, Neighbour
from podwire.kernel.route.port import RoutePort
from podwire.kernel.route.values import Route
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.objects import Key, Obj, annotations_of
from podwire.runtime.logging import get

_log = get("fabric")


class Keeper:
    """The kernel's side of one node's fabric. ``ledger`` None: nothing was settled yet."""

    def __init__(self, name: str, links: LinkPort, routes: RoutePort, sysctl: SysctlPort) -> None:
        self.ledger: Ledger | None = None
        self.macs: dict[int, str] = {}  # of the devices, by IP version
        self.wanted = Entries()
        self._name, self._links, self._routes, self._sysctl = name, links, routes, sysctl
        self._devices: dict[int, Link] = {}  # by IP version
        self._adjacent: frozenset[IPAddress] = frozenset()
        self._rendered: dict[str, Entries] = {}

    def settle(self, settings: FabricConfig, homes: tuple[Home, ...], own: Obj, nodes: dict[Key, Obj]) -> None:
        """Read what the kernel holds and bring all of it to what is wanted. Raises MachineError."""
        apply.prepare_sysctls(self._sysctl, self._links, homes)
        former = self._former_devices(own)
        self._make_devices(settings, homes, own)
        self.ledger = ledger = Ledger(settings, homes, self._name)
        self._adjacent = self._find_adjacent(ledger, nodes.values())
        for key in sorted(nodes):
            ledger.update(key.name, nodes[key], self._adjacent)
        self._rendered = {name: self._render(ledger, name) for name in ledger.paths}
        self.wanted = wanted = join(self._rendered.values())
        devices = {version: link.index for version, link in self._devices.items()}
        held = apply.observe(self._links, self._routes, devices)
        add, remove = wanted - held, held - wanted
        if add or remove:
            apply.apply(self._links, self._routes, add, remove, wanted)
            _log.info("applied", node=self._name, added=len(add), removed=len(remove))
        for name in former - {link.name for link in self._devices.values()}:
            self._remove_device(name)

    def _former_devices(self, own: Obj) -> set[str]:
        """Return the names of the devices that this agent or the one before it made."""
        names = {link.name for link in self._devices.values()}
        notes = annotations_of(own)
        for version in (4, 6):
            try:
                vni, _ = parse_backend(notes.get(BACKEND_DATA[version], ""))
            except ValueError:
                continue
            if notes.get(BACKEND_TYPE) == "vxlan":
                names.add(vxlan.device_name(vni or 1, version))
        return names

    def _remove_device(self, name: str) -> None:
        link = self._links.find(name)
        if link is not None and link.kind == "vxlan":
            self._links.delete(link.index)
            _log.info("removed-device", node=self._name, link=name)

    def _make_devices(self, settings: FabricConfig, homes: tuple[Home, ...], own: Obj) -> None:
        self._devices, self.macs = {}, {}
        if settings.backend != "vxlan":
            return
        for home in homes:
            mac = self._mac(settings.vni, home.version, own)
            spec = vxlan.render_device(settings, home, mac)
            bits = home.subnet.max_prefixlen
            interface = ip_interface((home.subnet.network_address, bits))
            self._devices[home.version] = apply.ensure_device(self._links, spec, interface)
            self.macs[home.version] = mac
            if home.version == 4:
                apply.loosen_reverse_path(self._sysctl, spec.name)

    def _mac(self, vni: int, version: int, own: Obj) -> str:
        """Return the MAC that peers know already, else the derived one."""
        try:
            announced, mac = parse_backend(annotations_of(own).get(BACKEND_DATA[version], ""))
        except ValueError:
            announced, mac = -1, ""
        return mac if announced in (0, vni) else vxlan.derive_mac(self._name, vni, version)

    def _find_adjacent(self, ledger: Ledger, nodes: Iterable[Obj]) -> frozenset[IPAddress]:
        if ledger.config.backend == "vxlan" and not ledger.config.direct_routing:
            return frozenset()  # nobody asks
        versions = [home.version for home in ledger.homes]
        sites = (read_site(node, version) for node in nodes for version in versions)
        addresses = {s.public_ip for s in sites if isinstance(s, Site) and s.name != self._name}
        return apply.find_adjacent(self._routes, ledger.homes, addresses)

    def replan(self, ledger: Ledger, name: str, node: Obj | None) -> None:
        """Bring one peer, and those that contest something with it, to what is wanted.

        Raises MachineError; what the kernel holds is then unknown, and ``settle`` must read it.
        """
        if node is not None:
            self._adjacent |= self._find_adjacent(ledger, (node,))
        touched = ledger.update(name, node, self._adjacent)
        old = join(self._rendered.pop(each, Entries()) for each in touched)
        fresh = {each: self._render(ledger, each) for each in touched if each in ledger.paths}
        self._rendered.update(fresh)
        new = join(fresh.values())
        self.wanted = join((self.wanted - old, new))  # no two peers hold one entry: the ledger sees to it
        apply.apply(self._links, self._routes, new - old, old - new, new)

    def _render(self, ledger: Ledger, name: str) -> Entries:
        underlay = {home.version: home.underlay for home in ledger.homes}
        return join(
            vxlan.render_path(path, self._devices[path.version].index)
            if path.mac
            else hostgw.render_path(path, underlay[path.version])
            for path in ledger.paths[name]
        )

    def concerns(self, change: Change) -> bool:
        """Return whether the kernel now differs from what was wanted. The agent's own deeds do not."""
        wanted, value, gone = self.wanted, change.value, change.gone
        devices = {link.index for link in self._devices.values()}
        underlays = {home.underlay for home in self.ledger.homes} if self.ledger is not None else set()
        match change.kind:
            case "link":
                assert isinstance(value, Link)
                if value.index in underlays:
                    return True
                held = next((d for d in self._devices.values() if d.name == value.name), None)
                return held is not None and (gone or held != value)
            case "address":
                link = getattr(value, "link", 0)
                return link in underlays or (link in devices and gone)
            case "route":
                assert isinstance(value, Route)
                if gone:
                    return value in wanted.routes
                ours = value.link in devices and value.protocol != 2
                contested = any(r.destination == value.destination for r in wanted.routes)
                return (ours or contested) and value not in wanted.routes
            case "neighbour":
                assert isinstance(value, Neighbour)
                return value.link in devices and value.permanent and gone == (value in wanted.neighbours)
            case "fdb":
                assert isinstance(value, FdbEntry)
                return value.link in devices and gone == (value in wanted.fdb)
        return True
