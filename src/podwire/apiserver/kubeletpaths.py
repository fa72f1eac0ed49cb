"""Where a pod's streams are: which node, which container, which path of its kubelet. Pure.

Paths and parameters are the kubelet's: /exec/NS/POD/CONTAINER?command=...&input=1&output=1&error=1&tty=1,
/attach/..., /portForward/NS/POD, /containerLogs/NS/POD/CONTAINER?follow=true...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlencode

from podwire.apiserver.errors import bad_request
from podwire.model.objects import Obj

DEFAULT_KUBELET_PORT = 10250
_ADDRESS_ORDER = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
_STREAMS = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
_LOG_PARAMETERS = (
    "follow", "previous", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "timestamps", "stream",
)  # fmt: skip

Query = Mapping[str, Sequence[str]]


class Kubelet(NamedTuple):
    """Where a node's kubelet answers."""

    host: str
    port: int


def kubelet_of(node: Obj) -> Kubelet:
    """Return the address of a node's kubelet. Raises ApiStatusError (400) when it has published none."""
    status = node.get("status") or {}
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    port = endpoint.get("Port") or DEFAULT_KUBELET_PORT
    addresses = status.get("addresses") or ()
    for wanted in _ADDRESS_ORDER:
        for address in addresses:
            if address.get("type") == wanted and address.get("address"):
                return Kubelet(address["address"], port)
    raise bad_request(f"node {node['metadata']['name']!r} has published no address yet")


def container_of(pod: Obj, wanted: str) -> str:
    """Return the container that a request means. Raises ApiStatusError (400) when that is not clear."""
    name, spec = pod["metadata"]["name"], pod.get("spec") or {}
    kinds = ("containers", "initContainers", "ephemeralContainers")
    names = {kind: [c["name"] for c in spec.get(kind) or ()] for kind in kinds}
    if wanted:
        if not any(wanted in found for found in names.values()):
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(names["containers"]) == 1:
        return str(names["containers"][0])
    message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(names['containers'])}]"
    for kind, shown in (("initContainers", "init"), ("ephemeralContainers", "ephemeral")):
        if names[kind]:
            message += f" or one of the {shown} containers: [{' '.join(names[kind])}]"
    raise bad_request(message)


def node_of(pod: Obj) -> str:
    """Return the name of the pod's node. Raises ApiStatusError (400) when it is not scheduled."""
    node = (pod.get("spec") or {}).get("nodeName")
    if not node:
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return str(node)


def _pod_path(act: str, pod: Obj, container: str = "") -> str:
    meta = pod["metadata"]
    parts = [act, meta["namespace"], meta["name"], *([container] if container else [])]
    return "/" + "/".join(quote(p, safe="") for p in parts)


def _on(query: Query, name: str) -> bool:
    return any(v.lower() in ("1", "true", "") for v in query.get(name, ()))


def stream_path(act: str, pod: Obj, query: Query) -> str:
    """Return the kubelet's path of "exec" or "attach". Raises ApiStatusError (400)."""
    container = container_of(pod, next(iter(query.get("container", ())), ""))
    pairs = [("command", c) for c in query.get("command", ())] if act == "exec" else []
    if act == "exec" and not pairs:
        raise bad_request("you must specify at least 1 command for the container")
    streams = [theirs for ours, theirs in _STREAMS if _on(query, ours)]
    if not set(streams) & {"input", "output", "error"}:
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    if "tty" in streams and "error" in streams:
        streams.remove("error")  # a terminal has one output
    pairs += [(s, "1") for s in streams]
    return f"{_pod_path(act, pod, container)}?{urlencode(pairs, quote_via=quote)}"


def port_forward_path(pod: Obj, query: Query) -> str:
    """Return the kubelet's path of a port-forward."""
    pairs = [("port", p) for p in query.get("ports", ()) or query.get("port", ())]
    return _pod_path("portForward", pod) + (f"?{urlencode(pairs)}" if pairs else "")


def log_path(pod: Obj, query: Query) -> str:
    """Return the kubelet's path of a container's log. Raises ApiStatusError (400)."""
    container = container_of(pod, next(iter(query.get("container", ())), ""))
    if query.get("sinceSeconds") and query.get("sinceTime"):
        raise bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified")
    pairs: list[tuple[str, str]] = []
    for name in _LOG_PARAMETERS:
        for value in query.get(name, ())[:1]:
            if name in ("sinceSeconds", "tailLines", "limitBytes") and not value.isdigit():
                raise bad_request(f"{name}: Invalid value: {value!r}: must be greater than or equal to 0")
            pairs.append((name, value))
    path = _pod_path("containerLogs", pod, container)
    return f"{path}?{urlencode(pairs)}" if pairs else path


class ProxyName(NamedTuple):
    """The name in a proxy path, taken apart: [SCHEME:]NAME[:PORT]."""

    scheme: str
    name: str
    port: str


def parse_proxy_name(text: str) -> ProxyName:
    """Return scheme ("http" unless given), name, and port ("" unless given). Raises ApiStatusError (400)."""
    parts = text.split(":")
    if len(parts) == 1:
        return ProxyName("http", parts[0], "")
    if len(parts) == 2:
        return ProxyName("http", parts[0], parts[1])
    if len(parts) == 3 and parts[0] in ("http", "https", ""):
        return ProxyName(parts[0] or "http", parts[1], parts[2])
    raise bad_request(f"invalid service request {text!r}")
