"""Link values <-> rtnetlink messages. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_interface

from podwire.kernel.link.values import (
    Address,
    Bridge,
    Dummy,
    FdbEntry,
    IPAddress,
    IPInterface,
    Kind,
    Link,
    LinkSpec,
    Neighbour,
    Veth,
    Vxlan,
)
from podwire.kernel.netlink import Request
from podwire.wire import rtnetlink as rt
from podwire.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    be16,
    decode_attributes,
    decode_i32,
    decode_text,
    decode_u32,
    nest,
    text,
    u8,
    u32,
)

_KINDS: dict[str, Kind] = {
    "bridge": "bridge",
    "veth": "veth",
    "vxlan": "vxlan",
    "dummy": "dummy",
    "tun": "tun",
}


def family_of(address: IPAddress | IPInterface) -> int:
    """Return AF_INET or AF_INET6."""
    return rt.AF_INET if address.version == 4 else rt.AF_INET6


def link_request(index: int, *attributes: bytes, flags: int = 0, change: int = 0) -> Request:
    """Return the request that changes a link that exists."""
    return Request(rt.RTM_NEWLINK, 0, rt.encode_ifinfo(index, flags, change) + b"".join(attributes))


def find_request(name: str) -> Request:
    """Return the request that reads one link by name."""
    return Request(rt.RTM_GETLINK, 0, rt.encode_ifinfo() + text(rt.IFLA_IFNAME, name))


def create_requests(spec: LinkSpec) -> list[Request]:
    """Return the requests that make a link and, last, read it back."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    up = rt.IFF_UP if isinstance(spec, Veth) and spec.up else 0
    parts = [rt.encode_ifinfo(0, up, up), text(rt.IFLA_IFNAME, spec.name)]
    if spec.mtu_bytes:
        parts.append(u32(rt.IFLA_MTU, spec.mtu_bytes))
    mac = "" if isinstance(spec, Dummy) else spec.mac
    if mac:
        parts.append(attribute(rt.IFLA_ADDRESS, rt.encode_mac(mac)))
    if isinstance(spec, Veth) and spec.master:
        parts.append(u32(rt.IFLA_MASTER, spec.master))
    parts.append(_link_details(spec))
    requests = [Request(rt.RTM_NEWLINK, flags, b"".join(parts))]
    if isinstance(spec, Veth) and spec.master and spec.hairpin:
        port = port_flags(hairpin=True, isolated=None)
        body = rt.encode_ifinfo() + text(rt.IFLA_IFNAME, spec.name) + port
        requests.append(Request(rt.RTM_NEWLINK, 0, body))
    return [*requests, find_request(spec.name)]


def _link_details(spec: LinkSpec) -> bytes:
    match spec:
        case Bridge():
            return nest(rt.IFLA_LINKINFO, text(rt.IFLA_INFO_KIND, "bridge"), flag=False)
        case Dummy():
            return nest(rt.IFLA_LINKINFO, text(rt.IFLA_INFO_KIND, "dummy"), flag=False)
        case Veth():
            kind, details = "veth", _veth_details(spec)
        case Vxlan():
            kind, details = "vxlan", _vxlan_details(spec)
    return nest(
        rt.IFLA_LINKINFO,
        text(rt.IFLA_INFO_KIND, kind),
        nest(rt.IFLA_INFO_DATA, details, flag=False),
        flag=False,
    )


def _veth_details(spec: Veth) -> bytes:
    parts = [rt.encode_ifinfo(), text(rt.IFLA_IFNAME, spec.peer)]
    if spec.mtu_bytes:
        parts.append(u32(rt.IFLA_MTU, spec.mtu_bytes))
    if spec.peer_mac:
        parts.append(attribute(rt.IFLA_ADDRESS, rt.encode_mac(spec.peer_mac)))
    if spec.peer_netns_fd is not None:
        parts.append(u32(rt.IFLA_NET_NS_FD, spec.peer_netns_fd))
    return nest(rt.VETH_INFO_PEER, *parts, flag=False)


def _vxlan_details(spec: Vxlan) -> bytes:
    local = rt.IFLA_VXLAN_LOCAL if spec.local.version == 4 else rt.IFLA_VXLAN_LOCAL6
    return b"".join(
        (
            u32(rt.IFLA_VXLAN_ID, spec.vni),
            u32(rt.IFLA_VXLAN_LINK, spec.dev),
            attribute(local, spec.local.packed),
            be16(rt.IFLA_VXLAN_PORT, spec.port),
            u8(rt.IFLA_VXLAN_LEARNING, spec.learning),
        )
    )


def port_flags(*, hairpin: bool | None, isolated: bool | None) -> bytes:
    """Return the attribute that sets flags of a bridge port."""
    flags = []
    if hairpin is not None:
        flags.append(u8(rt.IFLA_BRPORT_MODE, hairpin))
    if isolated is not None:
        flags.append(u8(rt.IFLA_BRPORT_ISOLATED, isolated))
    return nest(
        rt.IFLA_LINKINFO,
        text(rt.IFLA_INFO_SLAVE_KIND, "bridge"),
        nest(rt.IFLA_INFO_SLAVE_DATA, *flags, flag=False),
        flag=False,
    )


def decode_link(message: Message) -> Link:
    """Return the link that an RTM_NEWLINK or RTM_DELLINK describes."""
    header = rt.decode_ifinfo(message.body)
    found = decode_attributes(message.body, rt.IFINFO_BYTES)
    name = decode_text(found.get(rt.IFLA_IFNAME, b""))
    details = decode_attributes(found.get(rt.IFLA_LINKINFO, b""))
    kind_name = decode_text(details.get(rt.IFLA_INFO_KIND, b""))
    kind: Kind = _KINDS.get(kind_name, "other")
    if header.type == rt.ARPHRD_LOOPBACK:
        kind = "loopback"
    mac = rt.decode_mac(found.get(rt.IFLA_ADDRESS, b""))
    mtu_bytes = decode_u32(found.get(rt.IFLA_MTU, bytes(4)))
    netns_id = decode_i32(found[rt.IFLA_LINK_NETNSID]) if rt.IFLA_LINK_NETNSID in found else -1
    vxlan = None
    if kind == "vxlan" and rt.IFLA_INFO_DATA in details:
        vxlan = _decode_vxlan(name, mac, mtu_bytes, details[rt.IFLA_INFO_DATA])
    port = decode_attributes(details.get(rt.IFLA_INFO_SLAVE_DATA, b""))
    return Link(
        index=header.link,
        name=name,
        kind=kind,
        mac=mac,
        mtu_bytes=mtu_bytes,
        up=bool(header.flags & rt.IFF_UP),
        master=decode_u32(found.get(rt.IFLA_MASTER, bytes(4))),
        peer=decode_u32(found[rt.IFLA_LINK]) if kind == "veth" and rt.IFLA_LINK in found else 0,
        peer_netns_id=netns_id if kind == "veth" else -1,
        alias=decode_text(found.get(rt.IFLA_IFALIAS, b"")),
        vxlan=vxlan,
        hairpin=port.get(rt.IFLA_BRPORT_MODE, b"\0") != b"\0",
    )


def _decode_vxlan(name: str, mac: str, mtu_bytes: int, details: bytes) -> Vxlan:
    found = decode_attributes(details)
    local: IPAddress = IPv4Address(0)
    if rt.IFLA_VXLAN_LOCAL in found:
        local = IPv4Address(found[rt.IFLA_VXLAN_LOCAL])
    elif rt.IFLA_VXLAN_LOCAL6 in found:
        local = IPv6Address(found[rt.IFLA_VXLAN_LOCAL6])
    return Vxlan(
        name=name,
        vni=decode_u32(found.get(rt.IFLA_VXLAN_ID, bytes(4))),
        port=int.from_bytes(found.get(rt.IFLA_VXLAN_PORT, b""), "big"),
        local=local,
        dev=decode_u32(found.get(rt.IFLA_VXLAN_LINK, bytes(4))),
        learning=found.get(rt.IFLA_VXLAN_LEARNING, b"\0") != b"\0",
        mtu_bytes=mtu_bytes,
        mac=mac,
    )


def address_request(type: int, index: int, interface: IPInterface, scope: str, nodad: bool) -> Request:
    """Return the request that adds or removes an address."""
    adding = type == rt.RTM_NEWADDR
    header = rt.encode_ifaddr(
        family_of(interface),
        interface.network.prefixlen,
        rt.SCOPES[scope],
        index,
        rt.IFA_F_NODAD if nodad and adding and interface.version == 6 else 0,
    )
    parts = [header, attribute(rt.IFA_LOCAL, interface.ip.packed)]
    parts.append(attribute(rt.IFA_ADDRESS, interface.ip.packed))
    # RFC 3021: a /31 has no broadcast address, nor has a /32.
    if adding and isinstance(interface, IPv4Interface) and interface.network.prefixlen < 31:
        parts.append(attribute(rt.IFA_BROADCAST, interface.network.broadcast_address.packed))
    return Request(type, NLM_F_CREATE | NLM_F_EXCL if adding else 0, b"".join(parts))


def decode_address(message: Message) -> Address:
    """Return the address that an RTM_NEWADDR or RTM_DELADDR describes."""
    header = rt.decode_ifaddr(message.body)
    found = decode_attributes(message.body, rt.IFADDR_BYTES)
    raw = found.get(rt.IFA_LOCAL) or found[rt.IFA_ADDRESS]
    broadcast = found.get(rt.IFA_BROADCAST)
    return Address(
        link=header.link,
        interface=ip_interface((rt.decode_ip(raw), header.prefix)),
        scope=rt.SCOPE_NAMES.get(header.scope, str(header.scope)),
        broadcast=IPv4Address(broadcast) if broadcast else None,
    )


def neighbour_request(type: int, entry: Neighbour) -> Request:
    """Return the request that sets or removes a permanent neighbour entry."""
    header = rt.encode_ndmsg(family_of(entry.ip), entry.link, rt.NUD_PERMANENT)
    body = header + attribute(rt.NDA_DST, entry.ip.packed)
    if type == rt.RTM_NEWNEIGH:
        body += attribute(rt.NDA_LLADDR, rt.encode_mac(entry.mac))
        return Request(type, NLM_F_CREATE | NLM_F_REPLACE, body)
    return Request(type, 0, body)


def fdb_request(type: int, entry: FdbEntry) -> Request:
    """Return the request that sets or removes a permanent FDB entry.

    With a remote it belongs to the VXLAN device itself (NTF_SELF), else to the bridge (NTF_MASTER).
    """
    owner = rt.NTF_SELF if entry.remote is not None else rt.NTF_MASTER
    body = rt.encode_ndmsg(rt.AF_BRIDGE, entry.link, rt.NUD_PERMANENT, owner)
    body += attribute(rt.NDA_LLADDR, rt.encode_mac(entry.mac))
    if entry.remote is not None:
        body += attribute(rt.NDA_DST, entry.remote.packed)
    return Request(type, NLM_F_CREATE | NLM_F_REPLACE if type == rt.RTM_NEWNEIGH else 0, body)


def decode_neighbour(message: Message) -> Neighbour | FdbEntry | None:
    """Return the neighbour or FDB entry that an RTM_*NEIGH describes; None for one without addresses."""
    header = rt.decode_ndmsg(message.body)
    found = decode_attributes(message.body, rt.NDMSG_BYTES)
    mac = rt.decode_mac(found.get(rt.NDA_LLADDR, b""))
    destination = rt.decode_ip(found[rt.NDA_DST]) if rt.NDA_DST in found else None
    if header.family == rt.AF_BRIDGE:
        return FdbEntry(header.link, mac, destination)
    if destination is None:
        return None
    return Neighbour(header.link, destination, mac, bool(header.state & rt.NUD_PERMANENT))


def mtu(value: int) -> bytes:
    """Return the MTU attribute."""
    return attribute(rt.IFLA_MTU, struct.pack("=I", value))
