"""Rules of Services -> one nftables table of constant size, all data in its maps. Pure.

Why one `inet` table and not `ip` and `ip6`: both families change in one transaction, and a person reads one
listing. IPv6 has its own sets, with a 6 at the end of the name.

How a packet goes (first packet of a connection; the rest follow conntrack):

    prerouting/output   check-sources   loadBalancerSourceRanges, before the address is rewritten
                        services        external address? mark for masquerade, or keep-source (policy Local)
                                        sticky? DNAT to the remembered endpoint
                                        service-ips: goto pick-N, N the number of endpoints
                        pick-N          DNAT by map: address . port . random mod N -> endpoint
    forward/input/output  unserved      whatever was not rewritten: no endpoint, unknown port, unallocated IP
    postrouting         masquerade what was marked, and pods that reach themselves

A chain pick-N exists for each N in use, so the ruleset does not grow with the number of Services, and one
changed endpoint is one changed element.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from podwire.kernel.nft.port import Element, Rule
from podwire.proxy.desired import SCTP, TCP, UDP, Frontend, FrontKey, IPNetwork, ServiceRules, Target
from podwire.wire import nfrules

FAMILY = "inet"
TABLE = "podwire-proxy"
MASQUERADE_MARK = 0x4000  # the bit that kube-proxy uses, so that other software already knows it

_DATA_SETS = (
    "cluster-ips", "service-ips", "external-ips", "local-service-ips", "no-endpoint-ips",
    "sticky-ips", "sticky-timeouts", "hairpins", "firewalled-ips", "allowed-sources",
    "tcp-endpoints", "udp-endpoints", "sctp-endpoints",
    "tcp-local-endpoints", "udp-local-endpoints", "sctp-local-endpoints",
)  # fmt: skip
_WORDS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
SHARED_SETS = frozenset({"hairpins", "hairpins6"})
"""Sets in which several Services may own one element: it goes when the last owner goes."""


def data_sets(versions: Iterable[int]) -> tuple[str, ...]:
    """Return the names of the sets that the agent fills."""
    return tuple(name + _suffix(v) for v in versions for name in _DATA_SETS)


def affinity_map(version: int) -> str:
    """Return the name of the map that packets fill: client . frontend -> endpoint."""
    return "affinity" + _suffix(version)


def _suffix(version: int) -> str:
    return "6" if version == 6 else ""


# --- elements: one Service -> what it puts into which set


def elements(rules: ServiceRules) -> Iterator[tuple[str, Element]]:
    """Yield (set, element) for everything that one Service needs."""
    label = str(rules.service)
    for address in rules.cluster_ips:
        yield "cluster-ips" + _suffix(address.version), Element(address.packed, comment=label)
    yield from hairpins(rules)
    for frontend in rules.frontends:
        suffix = _suffix(frontend.key.address.version)
        for name, element in _frontend_elements(frontend):
            yield name + suffix, element


def hairpins(rules: ServiceRules) -> Iterator[tuple[str, Element]]:
    """Yield (set, element) of the pods that may reach themselves through the Service."""
    for address in rules.hairpins:
        yield "hairpins" + _suffix(address.version), Element(address.packed * 2)


def _frontend_elements(f: Frontend) -> Iterator[tuple[str, Element]]:
    key, label, six = encode_front(f.key), f.name, _suffix(f.key.address.version)
    if f.targets:
        yield "service-ips", Element(key, verdict=f"goto pick{six}-{len(f.targets)}", comment=label)
        yield from _endpoint_elements(f, "", f.targets)
    else:
        verdict = "drop" if f.refusal == "drop" else "goto refuse"
        yield "no-endpoint-ips", Element(key, verdict=verdict, comment=label)
    if f.exposure == "external":
        yield "external-ips", Element(key, verdict="jump mark-masquerade", comment=label)
    elif f.exposure == "external-local" and f.targets:
        yield "external-ips", Element(key, verdict=f"jump keep-source{six}", comment=label)
        local = f"goto pick{six}-local-{len(f.local_targets)}" if f.local_targets else "drop"
        yield "local-service-ips", Element(key, verdict=local, comment=label)
        yield from _endpoint_elements(f, "local-", f.local_targets)
    if f.affinity_s:
        yield "sticky-ips", Element(key, verdict=f"jump recall{six}", comment=label)
        yield "sticky-timeouts", Element(key, verdict=f"goto remember{six}-{f.affinity_s}", comment=label)
    if f.sources is not None:
        yield "firewalled-ips", Element(key, comment=label)
        for network in f.sources:
            first, last = network.network_address.packed, network.broadcast_address.packed
            yield "allowed-sources", Element(key + first, comment=label, key_end=key + last)


def _endpoint_elements(f: Frontend, infix: str, targets: Sequence[Target]) -> Iterator[tuple[str, Element]]:
    name = f"{_WORDS[f.key.protocol]}-{infix}endpoints"
    key = f.key.address.packed + struct.pack(">H2x", f.key.port)
    for index, target in enumerate(targets):
        # The kernel keeps what numgen yields in host byte order.
        yield name, Element(key + struct.pack("=I", index), encode_target(target), comment=f.name)


def encode_front(key: FrontKey) -> bytes:
    """Return address . protocol . port as set key."""
    return key.address.packed + struct.pack(">B3xH2x", key.protocol, key.port)


_TARGET4 = struct.Struct(">IH2x")


def encode_target(target: Target) -> bytes:
    """Return address . port as map value."""
    address = target.address
    if address.version == 4:
        return _TARGET4.pack(int(address), target.port)
    return address.packed + struct.pack(">H2x", target.port)


def is_endpoints(name: str) -> bool:
    """Return whether the set is one of the maps to endpoints."""
    return name.rstrip("6").endswith("-endpoints")


def decode_endpoint(name: str, element: Element) -> tuple[FrontKey, Target]:
    """Return the frontend and the target of an element of the endpoints map ``name``."""
    size = len(element.key) - 8
    value = element.value or b""
    protocol = next(number for number, word in _WORDS.items() if name.startswith(word))
    front = FrontKey(ip_address(element.key[:size]), protocol, struct.unpack_from(">H", element.key, size)[0])
    return front, Target(ip_address(value[:size]), struct.unpack_from(">H", value, size)[0])


def decode_affinity(element: Element) -> tuple[bytes, bytes]:
    """Return (frontend key, endpoint value) of an element of the affinity map, as raw bytes."""
    value = element.value or b""
    return element.key[len(value) - 4 :], value  # the client's address is as long as the endpoint's


# --- chains that data refer to


def chain_of(element: Element) -> str:
    """Return the chain that the element sends packets to; "" for none."""
    return element.verdict.partition(" ")[2]


def is_dynamic(name: str) -> bool:
    """Return whether the chain exists on demand, and not as part of the skeleton."""
    return _DYNAMIC.fullmatch(name) is not None


def dynamic_chain(name: str) -> str:
    """Return the rules of a chain on demand, one a line; "" where ``encoded_rules`` has them.

    pick-N, pick-local-N (with a 6 after "pick" for IPv6): one of N endpoints.
    remember-T: notes which endpoint an IPv4 client got, for T seconds.

    A map whose value has a port belongs to one protocol, hence three rules.
    """
    found = _DYNAMIC.fullmatch(name)
    if found is None or name.startswith("remember6-"):
        return ""
    if found["remember"]:
        return "\n".join(
            f"meta l4proto {p} update @affinity {{ ct original ip saddr . ct original ip daddr . meta l4proto . "
            f"ct original proto-dst timeout {found['number']}s : ip daddr . th dport }}"
            for p in _WORDS.values()
        )
    six, infix = found["six"], "local-" if found["local"] else ""
    ip = "ip6" if six else "ip"
    return "\n".join(
        f"dnat {ip} to {ip} daddr . {p} dport . numgen random mod {found['number']} map @{p}-{infix}endpoints{six}"
        for p in _WORDS.values()
    )


_DYNAMIC = re.compile(r"(?:pick(?P<six>6?)(?P<local>-local)?|(?P<remember>remember6?))-(?P<number>\d+)")


def encoded_rules(names: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules of remember6-T chains, in the kernel's own encoding.

    nft 1.0.6 aborts on a map statement whose key is longer than 16 bytes.
    """
    return tuple(
        Rule(FAMILY, TABLE, name, (*_REMEMBER6, nfrules.update_map(affinity_map(6), 0, 10, int(name[10:]))))
        for name in sorted(set(names))
        if name.startswith("remember6-") and is_dynamic(name)
    )


_REMEMBER6 = (
    nfrules.load_original(nfrules.CT_SRC_IP6, 0),
    nfrules.load_original(nfrules.CT_DST_IP6, 4),
    nfrules.load_meta(nfrules.META_L4PROTO, 8),
    nfrules.load_original(nfrules.CT_PROTO_DST, 9),
    nfrules.load_payload(nfrules.NETWORK, 24, 16, 10),  # destination address, by now the endpoint's
    nfrules.load_payload(nfrules.TRANSPORT, 2, 2, 14),
)


def add_chains(names: Iterable[str]) -> str:
    """Return the script that adds chains on demand; "" when there are none to add. Safe to repeat.

    ``encoded_rules`` of the same names go in after it.
    """
    lines: list[str] = []
    for name in sorted(set(names)):
        if is_dynamic(name):
            lines.append(f"add chain {FAMILY} {TABLE} {name}")
            lines.append(f"flush chain {FAMILY} {TABLE} {name}")
            lines += (f"add rule {FAMILY} {TABLE} {name} {rule}" for rule in dynamic_chain(name).splitlines())
    return "\n".join(lines) + "\n" if lines else ""


# --- the skeleton


def skeleton(
    versions: Sequence[int],
    pod_networks: Sequence[IPNetwork],
    service_networks: Sequence[IPNetwork],
    chains: Iterable[str] = (),
) -> str:
    """Return the script that makes the table, or remakes its rules while its elements stay.

    ``flush table`` empties chains, not sets: a restart leaves no gap. ``chains``: those on demand that
    elements (in the kernel or about to be) refer to.
    """
    body = [_sets(v, pod_networks, service_networks) + _chains(v, pod_networks) for v in versions]
    demanded = "".join(
        f"    chain {name} {{\n        {dynamic_chain(name).replace(chr(10), chr(10) + '        ')}\n    }}\n"
        for name in sorted(set(chains))
        if is_dynamic(name)
    )
    table = f"{FAMILY} {TABLE}"
    return (
        f"add table {table}\nflush table {table}\n{_fresh_networks(versions, table)}"
        f"table {table} {{\n{_common(versions)}{''.join(body)}{demanded}}}\n"
    )


def _fresh_networks(versions: Sequence[int], table: str) -> str:
    """Static sets are declared, emptied and filled again: their contents come from the configuration."""
    lines = []
    for v in versions:
        kind = f"{{ type ipv{v}_addr; flags interval; auto-merge; }}"
        for name in ("pod-networks", "service-networks"):
            lines.append(f"add set {table} {name}{_suffix(v)} {kind}")
            lines.append(f"flush set {table} {name}{_suffix(v)}")
    return "\n".join(lines) + "\n"


def _common(versions: Sequence[int]) -> str:
    def each(template: str) -> str:
        return "\n        ".join(template.replace("%", _suffix(v)) for v in versions)

    masquerade = "\n        ".join(
        f"ct status dnat {_ip(v)} saddr . {_ip(v)} daddr @hairpins{_suffix(v)} masquerade fully-random"
        for v in versions
    )
    mark = f"{MASQUERADE_MARK:#x}"
    remember = "\n        ".join(
        f"ct state new ct status dnat meta nfproto ipv{v} jump remember{_suffix(v)}" for v in versions
    )
    return f"""\
    chain mark-masquerade {{
        meta mark set meta mark or {mark}
    }}
    chain refuse {{
        meta l4proto tcp reject with tcp reset
        reject
    }}
    chain prerouting-sources {{
        type filter hook prerouting priority dstnat - 10; policy accept;
        ct state new {each("jump check-sources%") if len(versions) == 1 else "jump check-sources-both"}
    }}
    chain output-sources {{
        type filter hook output priority -110; policy accept;
        ct state new {each("jump check-sources%") if len(versions) == 1 else "jump check-sources-both"}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {each("jump services%")}
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        {each("jump services%")}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & {mark} == {mark} meta mark set meta mark xor {mark} masquerade fully-random
        {masquerade}
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        ct state new {each("jump unserved%") if len(versions) == 1 else "jump unserved-both"}
    }}
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        ct state new {each("jump unserved%") if len(versions) == 1 else "jump unserved-both"}
        {remember}
    }}
    chain output-unserved {{
        type filter hook output priority -90; policy accept;
        ct state new {each("jump unserved%") if len(versions) == 1 else "jump unserved-both"}
    }}
    chain postrouting-remember {{
        type filter hook postrouting priority srcnat - 10; policy accept;
        {remember}
    }}
""" + _both(versions)


def _both(versions: Sequence[int]) -> str:
    if len(versions) == 1:
        return ""
    return "".join(
        f"    chain {name}-both {{\n"
        + "".join(f"        meta nfproto ipv{v} jump {name}{_suffix(v)}\n" for v in versions)
        + "    }\n"
        for name in ("check-sources", "unserved")
    )


def _ip(version: int) -> str:
    return "ip6" if version == 6 else "ip"


def _sets(v: int, pod_networks: Sequence[IPNetwork], service_networks: Sequence[IPNetwork]) -> str:
    ip, six, address = _ip(v), _suffix(v), f"ipv{v}_addr"
    front = f"type {address} . inet_proto . inet_service"
    # `numgen` has no type with a name, hence typeof.
    endpoints = "".join(
        f"    map {p}-{infix}endpoints{six} {{\n"
        f"        typeof {ip} daddr . {p} dport . numgen random mod 2 : {ip} daddr . {p} dport\n    }}\n"
        for infix in ("", "local-")
        for p in _WORDS.values()
    )

    def networks(name: str, found: Sequence[IPNetwork]) -> str:
        texts = ", ".join(str(n) for n in found if n.version == v)
        fill = f" elements = {{ {texts} }}" if texts else ""
        return f"    set {name}{six} {{ type {address}; flags interval; auto-merge;{fill}\n    }}\n"

    return f"""\
{networks("pod-networks", pod_networks)}{networks("service-networks", service_networks)}\
    set cluster-ips{six} {{
        type {address}
    }}
    map service-ips{six} {{
        {front} : verdict
    }}
    map external-ips{six} {{
        {front} : verdict
    }}
    map local-service-ips{six} {{
        {front} : verdict
    }}
    map no-endpoint-ips{six} {{
        {front} : verdict
    }}
    set hairpins{six} {{
        type {address} . {address}
    }}
    set firewalled-ips{six} {{
        {front}
    }}
    set allowed-sources{six} {{
        {front} . {address}
        flags interval
    }}
{endpoints}\
    map sticky-ips{six} {{
        {front} : verdict
    }}
    map sticky-timeouts{six} {{
        {front} : verdict
    }}
    map affinity{six} {{
        type {address} . {address} . inet_proto . inet_service : {address} . inet_service
        size 131072
        flags dynamic,timeout
    }}
"""


def _chains(v: int, pod_networks: Sequence[IPNetwork]) -> str:
    ip, six = _ip(v), _suffix(v)
    front = f"{ip} daddr . meta l4proto . th dport"
    # Without a pod network nobody can say which sources are off-cluster; then none is masqueraded.
    off_cluster = (
        f"{ip} daddr @cluster-ips{six} {ip} saddr != @pod-networks{six} jump mark-masquerade\n        "
        if any(n.version == v for n in pod_networks)
        else ""
    )
    sticky = f"{front} vmap @sticky-ips{six}\n        "
    return f"""\
    chain check-sources{six} {{
        {front} @firewalled-ips{six} {front} . {ip} saddr != @allowed-sources{six} drop
    }}
    chain services{six} {{
        {off_cluster}{front} vmap @external-ips{six}
        {sticky}{front} vmap @service-ips{six}
    }}
    chain keep-source{six} {{
        {ip} saddr @pod-networks{six} return
        fib saddr type local goto mark-masquerade
        {sticky}{front} vmap @local-service-ips{six}
    }}
    chain unserved{six} {{
        {front} vmap @no-endpoint-ips{six}
        {ip} daddr @cluster-ips{six} goto refuse
        {ip} daddr @service-networks{six} drop
    }}
{_remember(ip, six)}"""


def _remember(ip: str, six: str) -> str:
    noted = "\n        ".join(
        f"meta l4proto {p} ct original {ip} daddr . meta l4proto . ct original proto-dst vmap @sticky-timeouts{six}"
        for p in _WORDS.values()
    )
    return f"""\
    chain recall{six} {{
        dnat {ip} to {ip} saddr . {ip} daddr . meta l4proto . th dport map @affinity{six}
    }}
    chain remember{six} {{
        {noted}
    }}
"""
