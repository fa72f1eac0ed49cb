"""Rules of Services -> iptables chains as kube-proxy builds them, name for name. Pure.

    nat     KUBE-SERVICES      cluster IP -> KUBE-SVC-..., external -> KUBE-EXT-... (or KUBE-FW-... first)
            KUBE-NODEPORTS     node port -> KUBE-EXT-...
            KUBE-EXT-...       mark for masquerade, or keep the source (policy Local) and -> KUBE-SVL-...
            KUBE-SVC-...       one of all endpoints       KUBE-SVL-...   one of this node's endpoints
            KUBE-SEP-...       DNAT to one endpoint
            KUBE-POSTROUTING   masquerade what KUBE-MARK-MASQ marked
    filter  KUBE-SERVICES, KUBE-EXTERNAL-SERVICES   refuse what has no endpoints
            KUBE-PROXY-FIREWALL                     drop what loadBalancerSourceRanges do not name
            PODWIRE-UNSERVED                        unknown ports and unallocated addresses; kube-proxy has no such

Lines are written as `iptables-save` prints them, so that what the kernel holds can be compared as text.
A chain's name is a prefix and the first 16 characters of the base32 of a SHA-256: iptables allows 28 characters.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from podwire.model.objects import Key
from podwire.proxy.desired import PROTOCOLS, TCP, Frontend, IPAddress, IPNetwork, ServiceRules, Target

MARK = "0x4000/0x4000"
_HASH_CHARS = 16
_WORDS = {number: word.lower() for word, number in PROTOCOLS.items()}

Place = tuple[str, str]
"""(table, chain)."""


# --- names


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


# --- the frame


_OURS = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|SEP)-[A-Z2-7]{16}")
_FRAME = frozenset(
    {
        ("nat", "KUBE-SERVICES"), ("nat", "KUBE-NODEPORTS"), ("nat", "KUBE-MARK-MASQ"), ("nat", "KUBE-POSTROUTING"),
        ("nat", "KUBE-MARK-MASQ-OUTSIDE"), ("filter", "KUBE-SERVICES"), ("filter", "KUBE-EXTERNAL-SERVICES"),
        ("filter", "KUBE-NODEPORTS"), ("filter", "KUBE-FORWARD"), ("filter", "KUBE-PROXY-FIREWALL"),
        ("filter", "PODWIRE-UNSERVED"), ("filter", "PODWIRE-REFUSE"),
    }
)  # fmt: skip


def is_ours(place: Place) -> bool:
    """Return whether the chain is one that this mode makes."""
    return place in _FRAME or _OURS.fullmatch(place[1]) is not None


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


_NEW = "-m conntrack --ctstate NEW"
_PORTALS = _comment("kubernetes service portals")
_OUTER = _comment("kubernetes externally-visible service portals")
_FIREWALL = _comment("kubernetes load balancer firewall")


def hooks(version: int, service_networks: Sequence[IPNetwork]) -> dict[Place, tuple[str, ...]]:
    """Return what the built-in chains must begin with, in this order."""
    firewall = f"{_NEW} {_FIREWALL} -j KUBE-PROXY-FIREWALL"
    inner, outer = f"{_NEW} {_PORTALS} -j KUBE-SERVICES", f"{_NEW} {_OUTER} -j KUBE-EXTERNAL-SERVICES"
    ours = [n for n in service_networks if n.version == version]
    gates = tuple(f"-d {n} {_NEW} -j PODWIRE-UNSERVED" for n in ours) or (f"{_NEW} -j PODWIRE-UNSERVED",)
    return {
        ("filter", "INPUT"): (
            firewall, f"{_comment('kubernetes health check service ports')} -j KUBE-NODEPORTS", outer,
        ),
        ("filter", "FORWARD"): (
            firewall, f"{_comment('kubernetes forwarding rules')} -j KUBE-FORWARD", inner, outer, *gates,
        ),
        ("filter", "OUTPUT"): (firewall, inner, outer, *gates),
        ("nat", "PREROUTING"): (f"{_PORTALS} -j KUBE-SERVICES",),
        ("nat", "OUTPUT"): (f"{_PORTALS} -j KUBE-SERVICES",),
        ("nat", "POSTROUTING"): (f"{_comment('kubernetes postrouting rules')} -j KUBE-POSTROUTING",),
    }  # fmt: skip


def frame(
    version: int, pod_networks: Sequence[IPNetwork], service_networks: Sequence[IPNetwork]
) -> dict[Place, tuple[str, ...]]:
    """Return the chains that are always there, with the lines at their ends; Services' lines go before those."""
    unreachable = "icmp-port-unreachable" if version == 4 else "icmp6-port-unreachable"
    inside = [n for n in pod_networks if n.version == version]
    note = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    closing = ("-j DROP",) if any(n.version == version for n in service_networks) else ()
    return {
        ("nat", "KUBE-MARK-MASQ"): (f"-j MARK --set-xmark {MARK}",),
        ("nat", "KUBE-MARK-MASQ-OUTSIDE"): (*(f"-s {n} -j RETURN" for n in inside), "-j KUBE-MARK-MASQ"),
        ("nat", "KUBE-POSTROUTING"): (
            f"-m mark ! --mark {MARK} -j RETURN",
            "-j MARK --set-xmark 0x4000/0x0",
            f"{_comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
        ),
        ("nat", "KUBE-NODEPORTS"): (),
        ("nat", "KUBE-SERVICES"): (f"{_comment(note)} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",),
        ("filter", "KUBE-SERVICES"): (),
        ("filter", "KUBE-EXTERNAL-SERVICES"): (),
        ("filter", "KUBE-NODEPORTS"): (),
        ("filter", "KUBE-PROXY-FIREWALL"): (),
        ("filter", "KUBE-FORWARD"): (
            f"{_comment('kubernetes forwarding rules')} -m mark --mark {MARK} -j ACCEPT",
            f"{_comment('kubernetes forwarding conntrack rule')} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
        ("filter", "PODWIRE-REFUSE"): (
            "-p tcp -j REJECT --reject-with tcp-reset", f"-j REJECT --reject-with {unreachable}",
        ),
        ("filter", "PODWIRE-UNSERVED"): closing,
    }  # fmt: skip


# --- one Service


@dataclass(slots=True)
class Piece:
    """What one Service adds: chains of its own, and lines in the frame's chains."""

    chains: dict[Place, tuple[str, ...]] = field(default_factory=dict)
    lines: dict[Place, list[str]] = field(default_factory=dict)

    def add(self, table: str, chain: str, line: str) -> None:
        self.lines.setdefault((table, chain), []).append(line)


def piece(rules: ServiceRules, version: int, pod_networks: Sequence[IPNetwork]) -> Piece:
    """Return what a Service adds in one IP family."""
    made = Piece()
    fronts = [f for f in rules.frontends if f.key.address.version == version]
    fronts.sort(key=lambda f: (f.name, f.key.protocol))
    for (name, protocol), group in groupby(fronts, key=lambda f: (f.name, f.key.protocol)):
        _Port(made, name, _WORDS[protocol], tuple(group), pod_networks).render()
    for address in rules.cluster_ips:
        if address.version == version:
            line = f"-d {_net(address)} {_comment(str(rules.service))} -j PODWIRE-REFUSE"
            made.add("filter", "PODWIRE-UNSERVED", line)
    return made


def _net(address: IPAddress) -> str:
    return f"{address}/{address.max_prefixlen}"


def endpoint_text(target: Target) -> str:
    """Return "10.244.1.99:53" or "[fd00::1]:53"."""
    return f"[{target.address}]:{target.port}" if target.address.version == 6 else f"{target.address}:{target.port}"


class _Port:
    """One Service port in one family: all its addresses share their chains."""

    def __init__(
        self, made: Piece, name: str, protocol: str, fronts: tuple[Frontend, ...], pod_networks: Sequence[IPNetwork]
    ) -> None:
        self._made, self._name, self._protocol, self._fronts = made, name, protocol, fronts
        self._inside = [n for n in pod_networks if n.version == fronts[0].key.address.version]
        path, _, port = name.partition(":")
        self._key = Key(*path.split("/", 1)), port, protocol
        self._svc, self._svl = service_chain(*self._key), local_chain(*self._key)
        self._ext, self._fw = external_chain(*self._key), firewall_chain(*self._key)

    def render(self) -> None:
        outside = [f for f in self._fronts if f.kind != "cluster IP"]
        everyone: tuple[Target, ...] = ()
        near: tuple[Target, ...] = ()
        for f in self._fronts:
            near = near or (f.targets if f.exposure == "cluster-local" else f.local_targets)
            everyone = everyone or (f.targets if f.exposure != "cluster-local" else ())
        affinity_s = max(f.affinity_s for f in self._fronts)
        if everyone:
            masked = [f for f in self._fronts if f.exposure == "cluster"]
            self._spread(self._svc, everyone, masked, affinity_s)
        if near:
            masked = [f for f in self._fronts if f.exposure == "cluster-local"]
            self._spread(self._svl, near, masked, affinity_s)
        for target in dict.fromkeys((*everyone, *near)):
            self._endpoint(target, affinity_s)
        if outside and everyone:
            self._made.chains["nat", self._ext] = tuple(self._external(outside[0]))
        for f in self._fronts:
            self._reach(f)
            self._refuse(f)

    def _match(self, f: Frontend, words: str) -> str:
        p = self._protocol
        return f"-d {_net(f.key.address)} -p {p} {_comment(words)} -m {p} --dport {f.key.port}"

    def _spread(self, chain: str, targets: Sequence[Target], masked: Sequence[Frontend], affinity_s: int) -> None:
        lines = []
        for f in masked:
            match = self._match(f, f"{self._name} cluster IP")
            if len(self._inside) == 1:
                lines.append(f"! -s {self._inside[0]} {match} -j KUBE-MARK-MASQ")
            elif self._inside:
                lines.append(f"{match} -j KUBE-MARK-MASQ-OUTSIDE")
        for target in targets if affinity_s else ():
            lines.append(
                f"{self._towards(target)} {_recent(target, self._sep(target), affinity_s)} -j {self._sep(target)}"
            )
        for index, target in enumerate(targets):
            left = len(targets) - index
            chance = f" -m statistic --mode random --probability {_probability(left)}" if left > 1 else ""
            lines.append(f"{self._towards(target)}{chance} -j {self._sep(target)}")
        self._made.chains["nat", chain] = tuple(lines)

    def _sep(self, target: Target) -> str:
        return endpoint_chain(*self._key, endpoint_text(target))

    def _towards(self, target: Target) -> str:
        return _comment(f"{self._name} -> {endpoint_text(target)}")

    def _endpoint(self, target: Target, affinity_s: int) -> None:
        name, p = _comment(self._name), self._protocol
        remember = f" {_recent(target, self._sep(target), 0)}" if affinity_s else ""
        self._made.chains["nat", self._sep(target)] = (
            f"-s {_net(target.address)} {name} -j KUBE-MARK-MASQ",
            f"-p {p} {name}{remember} -m {p} -j DNAT --to-destination {endpoint_text(target)}",
        )

    def _external(self, f: Frontend) -> Iterator[str]:
        if f.exposure == "external":
            words = f"masquerade traffic for {self._name} external destinations"
            yield f"{_comment(words)} -j KUBE-MARK-MASQ"
            yield f"-j {self._svc}"
            return
        for network in self._inside:
            yield f"-s {network} {_comment(f'pod traffic for {self._name} external destinations')} -j {self._svc}"
        words = f"masquerade LOCAL traffic for {self._name} external destinations"
        yield f"{_comment(words)} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"
        words = f"route LOCAL traffic for {self._name} external destinations"
        yield f"{_comment(words)} -m addrtype --src-type LOCAL -j {self._svc}"
        if f.local_targets:
            yield f"-j {self._svl}"

    def _reach(self, f: Frontend) -> None:
        """Lead the address to its chain."""
        if not f.targets:
            return
        if f.kind == "node port":
            self._made.add("nat", "KUBE-NODEPORTS", f"{self._match(f, self._name)} -j {self._ext}")
            return
        chain = {"cluster": self._svc, "cluster-local": self._svl}.get(f.exposure, self._ext)
        if f.sources is not None:
            chain = self._fw
            admitted = _comment(f"{self._name} loadbalancer IP")
            self._made.chains["nat", chain] = tuple(f"-s {n} {admitted} -j {self._ext}" for n in _merged(f.sources))
        self._made.add("nat", "KUBE-SERVICES", f"{self._match(f, f'{self._name} {f.kind}')} -j {chain}")

    def _refuse(self, f: Frontend) -> None:
        """Answer what nothing rewrites."""
        if f.sources is not None:
            words = f"{self._name} traffic not accepted by {self._fw}"
            end = "DROP" if f.targets else self._fw
            if not f.targets:
                admitted = tuple(f"-s {n} -j RETURN" for n in _merged(f.sources))
                self._made.chains["filter", self._fw] = (*admitted, "-j DROP")
            self._made.add("filter", "KUBE-PROXY-FIREWALL", f"{self._match(f, words)} -j {end}")
        chain = "KUBE-SERVICES" if f.kind == "cluster IP" else "KUBE-EXTERNAL-SERVICES"
        if not f.targets:
            which, end = ("no endpoints", _reject(f)) if f.refusal == "reject" else ("no local endpoints", "DROP")
            self._made.add("filter", chain, f"{self._match(f, f'{self._name} has {which}')} -j {end}")
        elif f.exposure == "external-local" and not f.local_targets:
            self._made.add("filter", chain, f"{self._match(f, f'{self._name} has no local endpoints')} -j DROP")


def _merged(networks: Sequence[IPNetwork]) -> list[IPNetwork]:
    return sorted(set(networks), key=lambda n: (int(n.network_address), n.prefixlen))


def _reject(f: Frontend) -> str:
    if f.key.protocol == TCP:
        return "REJECT --reject-with tcp-reset"
    return f"REJECT --reject-with {'icmp' if f.key.address.version == 4 else 'icmp6'}-port-unreachable"


def _recent(target: Target, chain: str, seconds: int) -> str:
    """Match (or, without ``seconds``, note) the clients that this endpoint served lately."""
    mask = "255.255.255.255" if target.address.version == 4 else ":".join(["ffff"] * 8)
    act = f"--rcheck --seconds {seconds} --reap" if seconds else "--set"
    return f"-m recent {act} --name {chain} --mask {mask} --rsource"


def _probability(left: int) -> str:
    """Return 1/left as the kernel keeps it (in 31 bits) and iptables-save prints it."""
    return f"{round(0x80000000 / left) / 0x80000000:.11f}"
