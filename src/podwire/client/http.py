"""The client over HTTPS: aiohttp below, JSON only."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from podwire.client.errors import ApiError, Gone, Unavailable, from_status
from podwire.client.port import Listing, PatchKind, WatchEvent
from podwire.model.errors import BadInput, Problem
from podwire.model.objects import Obj
from podwire.model.resources import PODS, Resource

_PATCH_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}

_PAGE_OBJECTS = 250


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server, and as whom. Certificates and keys are PEM; a token wins over none."""

    server: str
    ca_pem: str = ""
    client_cert_pem: str = field(default="", repr=False)
    client_key_pem: str = field(default="", repr=False)
    token_file: str = ""
    token: str = field(default="", repr=False)


def from_kubeconfig(path: Path, context: str = "") -> Access:
    """Return the access that a kubeconfig's current (or named) context describes. Raises BadInput."""
    import yaml

    config = yaml.safe_load(path.read_text())

    def pick(plural: str, singular: str, name: str) -> dict[str, Any]:
        for entry in config.get(plural) or ():
            if entry.get("name") == name:
                return entry[singular]  # type: ignore[no-any-return]
        raise BadInput(Problem(str(path), plural, f"no entry named {name!r}"))

    def pem(entry: dict[str, Any], name: str) -> str:
        if name + "-data" in entry:
            return base64.b64decode(entry[name + "-data"]).decode()
        return (path.parent / entry[name]).read_text() if name in entry else ""

    chosen = pick("contexts", "context", context or config.get("current-context", ""))
    cluster, user = pick("clusters", "cluster", chosen["cluster"]), pick("users", "user", chosen["user"])
    return Access(
        cluster["server"],
        pem(cluster, "certificate-authority"),
        pem(user, "client-certificate"),
        pem(user, "client-key"),
        user.get("tokenFile", ""),
        user.get("token", ""),
    )


SERVICEACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def in_cluster(host: str, port: str, directory: Path = SERVICEACCOUNT_DIR) -> Access:
    """Return the access of a pod: KUBERNETES_SERVICE_HOST and _PORT, and its ServiceAccount's token."""
    host = f"[{host}]" if ":" in host else host
    return Access(f"https://{host}:{port}", (directory / "ca.crt").read_text(), token_file=str(directory / "token"))


def ssl_context(access: Access) -> ssl.SSLContext:
    """Return a context that trusts exactly the access's CA and presents its client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if access.ca_pem:
        context.load_verify_locations(cadata=access.ca_pem)
    else:
        context.load_default_certs()
    if access.client_cert_pem:
        # OpenSSL reads key pairs from files only; the file is gone before this returns.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(access.client_cert_pem + "\n" + access.client_key_pem)
            pair.flush()
            context.load_cert_chain(pair.name)
    return context


def _impatient_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a TCP socket that notices within half a minute that the other side cannot be reached.

    A watch only listens: without keepalive it would wait on a connection that a partition has ended, and what is
    sent into a partition is retried for a quarter of an hour (tcp(7): TCP_KEEPIDLE, TCP_USER_TIMEOUT).
    """
    family, kind, protocol, *_ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 20_000),
        (socket.TCP_NODELAY, 1),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


class HttpClient:
    """``client.port.Client`` over HTTPS. Create it inside a running event loop."""

    def __init__(self, access: Access, *, user_agent: str = "podwire", timeout_s: float = 30.0) -> None:
        self._access = access
        self._timeout_s = timeout_s
        connector = aiohttp.TCPConnector(
            ssl=ssl_context(access) if access.server.startswith("https") else False,
            limit=0,
            keepalive_timeout=60,
            socket_factory=_impatient_socket,
        )
        self._session = aiohttp.ClientSession(
            base_url=access.server,
            connector=connector,
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            auto_decompress=True,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        )

    def _headers(self) -> dict[str, str]:
        token = self._access.token
        if self._access.token_file:  # read each time: bound tokens are rotated on disk
            token = Path(self._access.token_file).read_text().strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "",
    ) -> Obj:
        headers = self._headers()
        payload = None
        if body is not None:
            payload = orjson.dumps(body)
            headers["Content-Type"] = content_type or "application/json"
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._session.request(
                    method, path, params=params or None, data=payload, headers=headers
                ) as response:
                    raw = await response.read()
                    code = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(0, "Unreachable", f"{method} {path}: {type(error).__name__}: {error}") from error
        return _decode(code, raw)

    async def request(self, method: str, path: str, body: Any = None, **params: str) -> Obj:
        """Send any request and return the decoded JSON; for paths that are no resource (/version ...)."""
        return await self._request(method, path, params=params, body=body)

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Obj:
        """Return the object. Raises NotFound."""
        return await self._request("GET", resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """Return all matching objects, read in one consistent page."""
        params = _selectors(labels, fields)
        answer = await self._request("GET", resource.path(namespace), params=params)
        items = answer.get("items") or []
        for item in items:  # servers leave these two out of list items
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return Listing(items, answer["metadata"]["resourceVersion"])

    async def pages(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Listing]:
        """Yield all matching objects of one revision, page by page, so that never all are decoded at a time."""
        params = _selectors(labels, fields) | {"limit": str(_PAGE_OBJECTS)}
        while True:
            answer = await self._request("GET", resource.path(namespace), params=params)
            items = answer.get("items") or []
            for item in items:
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            meta = answer["metadata"]
            yield Listing(items, meta["resourceVersion"])
            if not meta.get("continue"):
                return
            params["continue"] = meta["continue"]

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes until the server closes the stream. Raises Gone and Unavailable."""
        params = _selectors(labels, fields) | {"watch": "true", "allowWatchBookmarks": "true"}
        if resource_version:
            params["resourceVersion"] = resource_version
        try:
            async with self._session.get(
                resource.path(namespace), params=params, headers=self._headers(), read_bufsize=1 << 20
            ) as response:
                if response.status != 200:
                    _decode(response.status, await response.read())
                buffer = b""
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield _event(orjson.loads(line))
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(0, "Unreachable", f"watch {resource.plural}: {type(error).__name__}: {error}") from error

    async def create(self, resource: Resource, obj: Obj) -> Obj:
        """Create ``obj`` in its metadata.namespace."""
        return await self._request("POST", resource.path(obj["metadata"].get("namespace", "")), body=obj)

    async def create_subresource(
        self, resource: Resource, name: str, namespace: str, subresource: str, body: Obj
    ) -> Obj:
        """POST to a subresource."""
        return await self._request("POST", resource.path(namespace, name, subresource), body=body)

    async def update(self, resource: Resource, obj: Obj, subresource: str = "") -> Obj:
        """PUT the object or its subresource."""
        meta = obj["metadata"]
        path = resource.path(meta.get("namespace", ""), meta["name"], subresource)
        return await self._request("PUT", path, body=obj)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Obj:
        """PATCH the object or its subresource."""
        params = {}
        if field_manager or kind == "apply":
            params["fieldManager"] = field_manager or "podwire"
        if force:
            params["force"] = "true"
        path = resource.path(namespace, name, subresource)
        return await self._request("PATCH", path, params=params, body=patch, content_type=_PATCH_TYPES[kind])

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        grace_period_s: int | None = None,
        propagation: str = "",
        uid: str = "",
    ) -> None:
        """Delete the object."""
        options: Obj = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if propagation:
            options["propagationPolicy"] = propagation
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._request("DELETE", resource.path(namespace, name), body=options)

    async def execute(self, pod: str, namespace: str, command: Sequence[str], container: str = "") -> tuple[int, str]:
        """Run ``command`` in a container of a pod; return its exit code and what it wrote, both streams together.

        Over WebSocket, v5.channel.k8s.io (KEP-4006). Raises ApiError, NotFound for a pod that is not there.
        """
        params = [("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
        if container:
            params.append(("container", container))
        path = PODS.path(namespace, pod, "exec")
        output, status = b"", b""
        try:
            async with self._session.ws_connect(
                path, params=params, headers=self._headers(), protocols=("v5.channel.k8s.io", "v4.channel.k8s.io")
            ) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.BINARY and message.data:
                        if message.data[0] == 3:
                            status += message.data[1:]
                        else:
                            output += message.data[1:]
        except aiohttp.WSServerHandshakeError as error:
            raise from_status(error.status, {"message": f"exec in {namespace}/{pod}: {error.message}"}) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(0, "Unreachable", f"exec in {namespace}/{pod}: {error}") from error
        return _exit_code(status), output.decode("utf-8", "replace")

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _exit_code(status: bytes) -> int:
    """Return the exit code that a metav1.Status of exec carries. Raises ApiError when the command never ran."""
    answer: Obj = orjson.loads(status) if status else {"status": "Failure", "message": "the stream ended early"}
    if answer.get("status") == "Success":
        return 0
    for cause in (answer.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise from_status(answer.get("code", 500), answer)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    pairs = {"labelSelector": labels, "fieldSelector": fields}
    return {k: v for k, v in pairs.items() if v}


def _decode(code: int, raw: bytes) -> Obj:
    try:
        answer = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        answer = {"message": raw[:500].decode("utf-8", "replace")}
    if code >= 400:
        raise from_status(code, answer if isinstance(answer, dict) else {})
    return answer


def _event(raw: Obj) -> WatchEvent:
    if raw["type"] == "ERROR":
        status = raw["object"]
        error: ApiError = from_status(status.get("code", 500), status)
        raise Gone(410, "Expired", error.message) if error.code == 410 else error
    return WatchEvent(raw["type"], raw["object"])
