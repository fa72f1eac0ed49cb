"""Host ports: a pod's container port, reachable under every (or one) address of its node.

One nftables table a family, of constant size, its data in maps. Who has which port is kept on disk
(``cni.store``), and the table follows from that alone: it can be made anew at any time.

    prerouting, output   packets to the node itself: address and port are looked up, first with the
                         destination address, then without -> dnat to the pod
                         (and marked, when they come from the node's loopback or a pod of the same bridge)
    postrouting          marked connections are masqueraded: the pod would answer them past the node
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, ip_address, ip_interface

from podwire.cni.settings import PortMapping, Published
from podwire.cni.spec import (
    CHECK_FAILED,
    HOST_PORT_TAKEN,
    INVALID_CONFIG,
    MACHINE_FAILURE,
    CniError,
    IPInterface,
    IPNetwork,
)
from podwire.cni.staleflows import StaleFlows
from podwire.cni.store import Owner, Reservations
from podwire.kernel.nft.port import Element, ElementChange, NftPort
from podwire.model.errors import MachineError

TABLE = "podwire-hostport"
MARK = 0x2000  # the bit that the reference plugin uses for the same purpose
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
_LOOPBACK = IPv4Network("127.0.0.0/8")


def record_name(port: PortMapping) -> str:
    """Return the name under which a port is reserved: "tcp:8080", "tcp:8080@192.168.71.10"."""
    name = f"{port.protocol}:{port.host_port}"
    return f"{name}@{port.host_ip}" if port.host_ip is not None else name


def parse_record(name: str, owner: Owner) -> tuple[Published, ...]:
    """Return what a reservation publishes, one entry a pod address; empty when it cannot be read."""
    protocol, _, rest = name.partition(":")
    number, _, host_ip = rest.partition("@")
    container_port, _, pods = owner.note.partition("/")
    try:
        host = ip_address(host_ip) if host_ip else None
        entries = tuple(
            Published(protocol, int(number), int(container_port), ip_interface(pod), host) for pod in pods.split(",")
        )
    except ValueError:
        return ()
    if protocol not in _NUMBERS:
        return ()
    return tuple(e for e in entries if host is None or host.version == e.pod.version)


def render_record(port: PortMapping, pods: Iterable[IPInterface]) -> str:
    """Return the note of a reservation: "80/10.244.1.5/24,fd00::5/64"."""
    return f"{port.container_port}/{','.join(map(str, pods))}"


class HostPorts:
    """The published ports of one network. Errors: CniError 5, 7, 11, 100, 103."""

    def __init__(self, store: Reservations, open_nft: Callable[[], NftPort], flows: StaleFlows) -> None:
        """``open_nft`` is called when the first port is published: most nodes never need it."""
        self._store, self._open_nft, self._flows = store, open_nft, flows
        self._nft: NftPort | None = None
        self._near: dict[str, frozenset[IPNetwork]] = {}  # per family, as the kernel has it

    def publish(self, owner: Owner, ports: Sequence[PortMapping], pods: Sequence[IPInterface]) -> None:
        """Reserve the ports for the owner's pod and put them in force.

        Raises CniError(103) naming the container that has one already; nothing stays reserved then.
        """
        with self._store.locked():
            held = self._store.owners()
            taken: list[str] = []
            try:
                for port in ports:
                    self._reserve(owner, port, pods, held, taken)
                self._enforce(held)
                self._flows.forget(_entries(held, taken), published=True)
            except (CniError, MachineError) as error:
                for name in taken:
                    self._store.give_back(name)
                if isinstance(error, CniError):
                    raise
                raise CniError(MACHINE_FAILURE, "cannot publish host ports", str(error)) from error

    def _reserve(
        self,
        owner: Owner,
        port: PortMapping,
        pods: Sequence[IPInterface],
        held: dict[str, Owner],
        taken: list[str],
    ) -> None:
        if port.host_ip is not None and all(p.version != port.host_ip.version for p in pods):
            raise CniError(INVALID_CONFIG, f"hostIP {port.host_ip}: the pod has no IPv{port.host_ip.version} address")
        name = record_name(port)
        for other, holder in held.items():
            if holder.key != owner.key and _clash(name, other):
                raise CniError(
                    HOST_PORT_TAKEN,
                    f"host port {port.host_port}/{port.protocol} is held by container {holder.container_id}",
                )
        wanted = Owner(owner.container_id, owner.ifname, owner.netns, render_record(port, pods))
        before = held.get(name)
        if before == wanted:
            return
        if before is not None:  # of an ADD that was cut off and got other addresses this time
            self._store.give_back(name)
        if not self._store.take(name, wanted):
            raise CniError(HOST_PORT_TAKEN, f"host port {port.host_port}/{port.protocol} is held")
        taken.append(name)
        held[name] = wanted

    def withdraw(self, container_id: str, ifname: str) -> None:
        """Take the owner's ports out of force and free them; it has none: nothing happens."""
        self._withdraw(lambda owner: owner.key == (container_id, ifname))

    def withdraw_except(self, alive: Collection[tuple[str, str]]) -> None:
        """Take the ports of everybody who is not ``alive`` out of force and free them."""
        self._withdraw(lambda owner: owner.key not in alive)

    def _withdraw(self, is_gone: Callable[[Owner], bool]) -> None:
        if not self._store.directory.exists():
            return
        with self._store.locked():
            held = self._store.owners()
            gone = [name for name, owner in held.items() if is_gone(owner)]
            if not gone:
                return
            kept = {name: owner for name, owner in held.items() if name not in gone}
            try:
                # The kernel first: a port that is free on disk must not still lead to somebody's pod.
                self._enforce(kept)
            except MachineError as error:
                raise CniError(MACHINE_FAILURE, "cannot withdraw host ports", str(error)) from error
            self._flows.forget(_entries(held, gone), published=False)
            for name in gone:
                self._store.give_back(name)

    def restore(self) -> None:
        """Put in force what is reserved, and nothing else. Raises MachineError."""
        with self._store.locked():
            self._enforce(self._store.owners())

    def check(self, container_id: str, ifname: str, ports: Sequence[PortMapping]) -> None:
        """Raise CniError(110) when a port of the owner is not reserved or not in force."""
        if not ports:
            return
        with self._store.locked():
            held = self._store.owners()
        for port in ports:
            owner = held.get(record_name(port))
            if owner is None or owner.key != (container_id, ifname):
                raise CniError(CHECK_FAILED, f"host port {record_name(port)} is not reserved for this pod")
            for entry in parse_record(record_name(port), owner):
                self._check_in_force(entry)

    def _check_in_force(self, entry: Published) -> None:
        name, key = _lookup_of(entry)
        present = self._port().elements(entry.family, TABLE, name)
        if all(e.key != key for e in present or ()):
            raise CniError(CHECK_FAILED, f"host port {entry.host_port} is not in table {TABLE}")

    def _port(self) -> NftPort:
        if self._nft is None:
            self._nft = self._open_nft()
        return self._nft

    def _enforce(self, held: dict[str, Owner]) -> None:
        """Make the kernel's tables those that the reservations call for."""
        entries = sorted((e for name, owner in held.items() for e in parse_record(name, owner)), key=_order)
        for family in ("ip", "ip6"):
            ours = [e for e in entries if e.family == family]
            near = near_networks(ours)
            if not ours and family not in self._near and not self._is_there(family):
                continue
            if self._near.get(family) != near or not self._change(family, ours):
                self._port().apply(render_table(family, ours))
                self._near[family] = near
            if not ours:
                self._near.pop(family, None)

    def _is_there(self, family: str) -> bool:
        return self._port().elements(family, TABLE, "ports") is not None

    def _change(self, family: str, wanted: Sequence[Published]) -> bool:
        """Move only the elements that differ; False when the table must be made anew."""
        changes: list[ElementChange] = []
        target = desired_elements(wanted)
        for name, elements in target.items():
            present = self._port().elements(family, TABLE, name)
            if present is None:
                return False
            now = {(e.key, e.value) for e in present}
            then = {(e.key, e.value) for e in elements}
            changes.append(
                ElementChange(
                    family,
                    TABLE,
                    name,
                    add=tuple(Element(k, v) for k, v in sorted(then - now, key=repr)),
                    delete=tuple(Element(k, v) for k, v in sorted(now - then, key=repr)),
                )
            )
        try:
            self._port().change([c for c in changes if c.add or c.delete])
        except MachineError:
            return False
        return True


def _entries(held: dict[str, Owner], names: Iterable[str]) -> list[Published]:
    return [entry for name in names for entry in parse_record(name, held[name])]


def _clash(a: str, b: str) -> bool:
    """Return whether two records claim the same port of a common address (no address: every one)."""
    (port_a, _, ip_a), (port_b, _, ip_b) = a.partition("@"), b.partition("@")
    return port_a == port_b and (not ip_a or not ip_b or ip_a == ip_b)


def _order(entry: Published) -> tuple[str, int, str, str]:
    return (entry.protocol, entry.host_port, str(entry.host_ip or ""), str(entry.pod))


def near_networks(entries: Iterable[Published]) -> frozenset[IPNetwork]:
    """Return the sources whose published connections are masqueraded: loopback and the pods' ranges."""
    near: set[IPNetwork] = {e.pod.network for e in entries}
    if any(n.version == 4 for n in near):
        near.add(_LOOPBACK)
    return frozenset(near)


def _field(raw: bytes) -> bytes:
    """Return one field of a concatenation, padded to 4 bytes as nftables keeps it in registers."""
    return raw + bytes(-len(raw) % 4)


def _number(entry: Published) -> bytes:
    return _field(bytes([_NUMBERS[entry.protocol]]))


def _port_bytes(port: int) -> bytes:
    return _field(port.to_bytes(2, "big"))


def _lookup_of(entry: Published) -> tuple[str, bytes]:
    """Return the map that holds an entry, and its key there."""
    key = _number(entry) + _port_bytes(entry.host_port)
    return ("ports", key) if entry.host_ip is None else ("ports-at", entry.host_ip.packed + key)


def desired_elements(entries: Iterable[Published]) -> dict[str, list[Element]]:
    """Return the elements of the table's maps and sets that follow from the entries."""
    found: dict[str, list[Element]] = {"ports": [], "ports-at": []}
    for entry in entries:
        name, key = _lookup_of(entry)
        found[name].append(Element(key, entry.pod.ip.packed + _port_bytes(entry.container_port)))
    return found


def render_table(family: str, entries: Sequence[Published]) -> str:
    """Return the nft script that replaces the table of one family, elements and all.

    Without entries the table is removed.
    """
    fresh = f"table {family} {TABLE}\ndelete table {family} {TABLE}\n"
    if not entries:
        return fresh
    address = "ipv4_addr" if family == "ip" else "ipv6_addr"
    port, at = "inet_proto . inet_service", f"{address} . inet_proto . inet_service"
    near = sorted(near_networks(entries), key=str)
    anywhere = [e for e in entries if e.host_ip is None]
    somewhere = [e for e in entries if e.host_ip is not None]
    setmark = f"meta mark set meta mark or {MARK:#x}"
    lines = [
        f"table {family} {TABLE} {{",
        *_block("map ports", f"{port} : {address} . inet_service",
                (f"{_say_port(e)} : {_say_target(e)}" for e in anywhere)),
        *_block("map ports-at", f"{at} : {address} . inet_service",
                (f"{e.host_ip} . {_say_port(e)} : {_say_target(e)}" for e in somewhere)),
        *_block("set near", address, map(str, near), "flags interval"),
        "  chain publish {",
        f"    {family} saddr @near {family} daddr . meta l4proto . th dport @ports-at {setmark}",
        f"    {family} saddr @near meta l4proto . th dport @ports {setmark}",
        f"    dnat {family} to {family} daddr . meta l4proto . th dport map @ports-at",
        f"    dnat {family} to meta l4proto . th dport map @ports",
        "  }",
        "  chain prerouting {",
        "    type nat hook prerouting priority -90",
        "    fib daddr type local goto publish",
        "  }",
        "  chain output {",
        "    type nat hook output priority -90",
        "    fib daddr type local goto publish",
        "  }",
        "  chain postrouting {",
        "    type nat hook postrouting priority 95",
        f"    meta mark and {MARK:#x} == {MARK:#x} ct status dnat masquerade",
        "  }",
        "}",
    ]  # fmt: skip
    return fresh + "\n".join(lines) + "\n"


def _block(head: str, type: str, elements: Iterable[str], *more: str) -> Iterator[str]:
    yield f"  {head} {{"
    yield f"    type {type}"
    yield from (f"    {line}" for line in more)
    listed = list(elements)
    if listed:
        yield "    elements = {"
        yield from (f"      {e}," for e in listed)
        yield "    }"
    yield "  }"


def _say_port(entry: Published) -> str:
    return f"{entry.protocol} . {entry.host_port}"


def _say_target(entry: Published) -> str:
    return f"{entry.pod.ip} . {entry.container_port}"
