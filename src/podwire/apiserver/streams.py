"""Subresources that end at a kubelet or a pod: exec, attach, portforward, log, proxy.

The API server only finds the way; the bytes, upgrades included, pass through as they are (``relay.py``).
Who may do so was decided before.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from ipaddress import ip_address

from aiohttp import web

from podwire.apiserver import kubeletpaths
from podwire.apiserver.errors import ApiStatusError, bad_request, no_such_path, not_found, unavailable
from podwire.apiserver.kubeletpaths import Kubelet, Query
from podwire.apiserver.relay import Connect, direct, relay
from podwire.apiserver.routes import Target
from podwire.model.objects import Obj

Get = Callable[[str, str, str], Obj | None]
"""(plural, namespace, name) of the core group -> the object as it is now, or None."""

SUBRESOURCES = frozenset({"exec", "attach", "portforward", "log", "proxy"})
_PROXY_REST = re.compile(r"/(?:pods|services|nodes)/[^/]+/proxy(?P<rest>/.*)?$")


class Streams:
    """Answers the requests for ``SUBRESOURCES``. ``kubelet_context`` makes the TLS context, on first use."""

    def __init__(self, get: Get, kubelet_context: Callable[[], ssl.SSLContext], *, connect: Connect = direct) -> None:
        self._get, self._connect = get, connect
        self._make_context = kubelet_context
        self._context: ssl.SSLContext | None = None

    async def answer(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answer a request for pods/{exec,attach,portforward,log} or {pods,services,nodes}/proxy.

        Raises ApiStatusError; once it returns, the connection may be over.
        """
        if target.subresource == "proxy":
            return await self._proxy(request, target)
        pod = self._get("pods", target.namespace, target.name)
        if pod is None:
            raise not_found(target.kind, target.name)
        query: Query = {name: request.query.getall(name) for name in request.query}
        match target.subresource:
            case "exec" | "attach":
                path = kubeletpaths.stream_path(target.subresource, pod, query)
            case "portforward":
                path = kubeletpaths.port_forward_path(pod, query)
            case "log":
                path = kubeletpaths.log_path(pod, query)
                if not (pod.get("spec") or {}).get("nodeName"):
                    return web.Response(content_type="text/plain")  # not started anywhere: no lines yet
            case other:
                raise bad_request(f"{other} is not a stream")
        if target.subresource != "log" and "Upgrade" not in request.headers:
            raise bad_request("Upgrade request required")
        self._check_running(pod, target.subresource)
        kubelet = self._kubelet(kubeletpaths.node_of(pod))
        return await self._to_kubelet(request, kubelet, path)

    @staticmethod
    def _check_running(pod: Obj, act: str) -> None:
        phase = (pod.get("status") or {}).get("phase")
        if act in ("exec", "attach") and phase in ("Succeeded", "Failed"):
            raise ApiStatusError(
                500, "InternalError",
                f"cannot exec into a container in a completed pod; current phase is {phase}",
            )  # fmt: skip

    async def _to_kubelet(self, request: web.Request, kubelet: Kubelet, path: str) -> web.StreamResponse:
        if self._context is None:
            self._context = self._make_context()
        return await relay(request, kubelet.host, kubelet.port, path, context=self._context, connect=self._connect)

    def _kubelet(self, node_name: str) -> Kubelet:
        node = self._get("nodes", "", node_name)
        if node is None:
            raise ApiStatusError(
                404, "NotFound", f'nodes "{node_name}" not found', {"name": node_name, "kind": "nodes"}
            )
        return kubeletpaths.kubelet_of(node)

    async def _proxy(self, request: web.Request, target: Target) -> web.StreamResponse:
        raw = request.rel_url.raw_path
        match = _PROXY_REST.search(raw)
        if match is None:
            raise no_such_path()
        rest = match["rest"] or "/"
        prefix = raw[: len(raw) - len(match["rest"] or "")].encode()
        query = request.rel_url.raw_query_string
        path = f"{rest}?{query}" if query else rest
        name = kubeletpaths.parse_proxy_name(target.name)
        if target.kind.plural == "nodes":
            return await self._to_kubelet(request, self._node_endpoint(name), path)
        find = self._pod_endpoint if target.kind.plural == "pods" else self._service_endpoint
        host, port = find(target, name)
        # A pod's certificate is nobody's that we know: as with Kubernetes, it is not checked.
        context = _unchecked_context() if name.scheme == "https" else None
        return await relay(
            request, host, port, path, context=context, connect=self._connect,
            rewrite_head=lambda head: _rewrite_location(head, prefix),
        )  # fmt: skip

    def _node_endpoint(self, name: kubeletpaths.ProxyName) -> Kubelet:
        kubelet = self._kubelet(name.name)
        if name.port and not name.port.isdigit():
            raise bad_request(f"invalid port {name.port!r}")
        return kubelet._replace(port=int(name.port)) if name.port else kubelet

    def _pod_endpoint(self, target: Target, name: kubeletpaths.ProxyName) -> tuple[str, int]:
        pod = self._get("pods", target.namespace, name.name)
        if pod is None:
            raise not_found(target.kind, name.name)
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise bad_request(f"pod {name.name} has no address yet")
        _check_proxyable(address)
        if name.port:
            return address, _container_port(pod, name.port)
        for container in pod["spec"].get("containers") or ():
            for port in container.get("ports") or ():
                return address, int(port["containerPort"])
        return address, 443 if name.scheme == "https" else 80

    def _service_endpoint(self, target: Target, name: kubeletpaths.ProxyName) -> tuple[str, int]:
        service = self._get("services", target.namespace, name.name)
        if service is None:
            raise not_found(target.kind, name.name)
        ports = (service.get("spec") or {}).get("ports") or []
        wanted = [p for p in ports if name.port in ("", p.get("name"), str(p.get("port")))]
        if not wanted or (not name.port and len(ports) > 1):
            raise unavailable(f'no service port {name.port!r} found for service "{name.name}"')
        endpoints = self._get("endpoints", target.namespace, name.name) or {}
        for subset in endpoints.get("subsets") or ():
            for port in subset.get("ports") or ():
                if port.get("name", "") == wanted[0].get("name", ""):
                    for address in subset.get("addresses") or ():
                        _check_proxyable(address["ip"])
                        return address["ip"], int(port["port"])
        raise unavailable(f'no endpoints available for service "{name.name}"')


def _check_proxyable(address: str) -> None:
    """Refuse addresses by which a pod's or endpoint's author could reach the API server's own machine."""
    ip = ip_address(address)
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        raise bad_request("address not allowed")


def _container_port(pod: Obj, text: str) -> int:
    if text.isdigit():
        return int(text)
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == text:
                return int(port["containerPort"])
    raise bad_request(f"pod {pod['metadata']['name']} has no port named {text!r}")


def _unchecked_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_LOCATION = re.compile(rb"(?im)^(location:[ \t]*)(/[^\r\n]*)")


def _rewrite_location(head: bytes, prefix: bytes) -> bytes:
    """Return the head with a redirect to a path led back through the proxy."""
    return _LOCATION.sub(lambda m: m[1] + prefix + m[2], head)
