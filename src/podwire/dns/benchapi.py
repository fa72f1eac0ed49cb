"""A stand-in for the API server in benchmarks: prepared JSON, pages, and watches that can be made to speak."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import orjson

from podwire.model.objects import Obj


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster of the wanted size holds: encoded objects by their resource's path."""

    names: list[tuple[str, str]]
    addresses: list[str]
    objects: dict[str, list[bytes]]


def generate(services: int, endpoints_each: int) -> Cluster:
    """Return a cluster as users have them: every tenth Service headless, metadata as kubectl leaves it."""
    names, addresses = [], []
    objects: dict[str, list[bytes]] = {"services": [], "endpointslices": [], "namespaces": []}
    for i in range(100):
        objects["namespaces"].append(orjson.dumps({"metadata": {"name": f"ns-{i}", "resourceVersion": "1"}}))
    pod = 0
    for i in range(services):
        name, namespace, ip = f"svc-{i}", f"ns-{i % 100}", f"10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}"
        headless = i % 10 == 9
        objects["services"].append(orjson.dumps(service(name, namespace, "None" if headless else ip)))
        if not headless:
            names.append((name, namespace))
            addresses.append(ip)
        endpoints = []
        for n in range(endpoints_each):
            pod += 1
            endpoints.append({
                "addresses": [f"10.{128 + (pod >> 16)}.{pod >> 8 & 255}.{pod & 255}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{n}", "zone": "zone-a",
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"{name}-5d8f9c7b6-{pod:05d}",
                              "uid": f"00000000-0000-0000-0000-{pod:012d}"},
            } | ({"hostname": f"{name}-{n}"} if headless else {}))  # fmt: skip
        meta = _meta(f"{name}-x", namespace) | {"labels": {"kubernetes.io/service-name": name}}
        ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
        piece = {"addressType": "IPv4", "metadata": meta, "endpoints": endpoints, "ports": ports}
        objects["endpointslices"].append(orjson.dumps(piece))
    return Cluster(names, addresses, objects)


def _meta(name: str, namespace: str, version: int = 1) -> Obj:
    return {
        "name": name, "namespace": namespace, "resourceVersion": str(version), "uid": f"{namespace}-{name}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
    }  # fmt: skip


def service(name: str, namespace: str, ip: str, version: int = 1) -> Obj:
    """Return a Service as an API server shows it."""
    return {
        "metadata": _meta(name, namespace, version),
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {}},
    }  # fmt: skip


class StandIn:
    """Listens on loopback while its `async with` lasts. ``lists``: how many whole collections were listed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._watches: dict[str, set[asyncio.StreamWriter]] = {}
        self._version = 10
        self.lists = 0
        self.url = ""

    async def __aenter__(self) -> StandIn:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    def announce_service(self, name: str, namespace: str, ip: str) -> None:
        """Tell those who watch Services of a new one."""
        self._version += 1
        event = {"type": "ADDED", "object": service(name, namespace, ip, self._version)}
        for writer in self._watches.get("services", ()):
            _write_chunk(writer, orjson.dumps(event) + b"\n")

    async def expire(self) -> None:
        """Have every watch end with 410 Gone, as after a compaction: clients must list again."""
        status = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
        for writers in self._watches.values():
            for writer in list(writers):
                _write_chunk(writer, orjson.dumps(status) + b"\n")
                writer.write(b"0\r\n\r\n")
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = urlsplit(head.split(b" ", 2)[1].decode())
                plural, params = target.path.rsplit("/", 1)[1], parse_qs(target.query)
                if "watch" in params:
                    await self._watch(plural, reader, writer)
                    return
                writer.write(self._list(plural, params))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _watch(self, plural: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._watches.setdefault(plural, set()).add(writer)
        try:
            await reader.read()
        finally:
            self._watches[plural].discard(writer)

    def _list(self, plural: str, params: dict[str, list[str]]) -> bytes:
        everything = self._cluster.objects.get(plural, [])
        start = int(params.get("continue", ["0"])[0])
        limit = int(params.get("limit", ["0"])[0]) or len(everything)
        page, rest = everything[start : start + limit], len(everything) - start - limit
        meta = {"resourceVersion": str(self._version)} | ({"continue": str(start + limit)} if rest > 0 else {})
        if rest <= 0:
            self.lists += 1
        body = b'{"metadata":' + orjson.dumps(meta) + b',"items":[' + b",".join(page) + b"]}"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def _write_chunk(writer: asyncio.StreamWriter, raw: bytes) -> None:
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
