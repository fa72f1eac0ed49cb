"""What the built-in server answers to an HTTP request. Pure.

/               facts as text (JSON: ``Accept: application/json``, ``?format=json`` or /json)
/healthz /readyz /livez   ok            /hostname   the pod's host name
/clientip       address:port it saw     /headers    the request's headers, as JSON
/echo?msg=TEXT  TEXT; a POST: its body  /status/CODE   that status
/delay/SECONDS  after that time         /bytes/N    N bytes
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

_REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    301: "Moved Permanently",
    302: "Found",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    418: "I'm a teapot",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_MOST_BYTES = 1 << 30
_MOST_DELAY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Facts:
    """Who is answering."""

    pod: str = ""
    namespace: str = ""
    node: str = ""
    ip: str = ""
    container: str = ""
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are lower case. ``line`` is the request line as it came."""

    line: str
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    client: str
    client_port: int
    port: int


@dataclass(slots=True)
class Answer:
    """One response; sent after ``delay_s``."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    keep_alive: bool = True
    delay_s: float = 0.0
    head_only: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the bytes to send."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Status')}",
            "Server: podwire",
            f"Content-Type: {self.content_type}",
        ]
        if self.status >= 200 and self.status not in (204, 304):  # RFC 9110 §8.6: none in a 1xx or 204
            lines.append(f"Content-Length: {len(self.body)}")
        lines += [f"{k}: {v}" for k, v in self.headers.items()]
        lines.append("Connection: " + ("keep-alive" if self.keep_alive else "close"))
        bodiless = self.head_only or self.status < 200 or self.status in (204, 304)
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if bodiless else self.body)


def parse_request(head: bytes, body: bytes, client: str, client_port: int, port: int) -> Request:
    """Read a request's head (without its empty line). Never fails: nonsense becomes method ""."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    method, target, version = words if len(words) == 3 else ("", "/", "HTTP/1.0")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    try:
        parts = urlsplit(target if target.startswith(("/", "http://", "https://")) else "/")
    except ValueError:
        parts = urlsplit("/")
    wish = headers.get("connection", "").lower()
    keep = wish != "close" if version == "HTTP/1.1" else wish == "keep-alive"
    query = parse_qs(parts.query, keep_blank_values=True)
    path = unquote(parts.path) or "/"
    return Request(lines[0], method, path, query, headers, body, keep, client, client_port, port)


def respond(request: Request, facts: Facts, text: str, hostname_only: bool) -> Answer:
    """Return the answer. ``text`` (http-echo's -text) or the host name alone is what "/" says, when given."""
    if not request.method:
        return Answer(400, b"400 Bad Request\n", keep_alive=False)
    answer = _route(request, facts, text, hostname_only)
    answer.keep_alive = request.keep_alive
    answer.head_only = request.method == "HEAD"
    return answer


def _route(request: Request, facts: Facts, text: str, hostname_only: bool) -> Answer:
    path, _, argument = request.path.strip("/").partition("/")
    match path.lower():
        case "healthz" | "readyz" | "livez" | "health" | "ready":
            return Answer(body=b"ok\n")
        case "hostname":
            return Answer(body=facts.hostname.encode())
        case "clientip":
            return Answer(body=_endpoint(request.client, request.client_port).encode())
        case "headers":
            return _as_json(request.headers)
        case "echo" if "msg" in request.query:
            return Answer(body=request.query["msg"][0].encode())
        case "echo":
            return Answer(body=request.body)
        case "status" if argument.isdigit() and 200 <= int(argument) <= 599:
            return Answer(int(argument), f"{argument} {_REASONS.get(int(argument), '')}".rstrip().encode() + b"\n")
        case "delay":
            return _delayed(argument, request, facts)
        case "bytes" if argument.isdigit() and int(argument) <= _MOST_BYTES:
            return Answer(body=b"x" * int(argument), content_type="application/octet-stream")
    if text:
        return Answer(body=text.encode() + b"\n")
    if hostname_only:
        return Answer(body=facts.hostname.encode())
    return _tell(request, facts)


def _delayed(argument: str, request: Request, facts: Facts) -> Answer:
    try:
        seconds = min(float(argument), _MOST_DELAY_S)
    except ValueError:
        return Answer(400, b"/delay/SECONDS\n")
    answer = _tell(request, facts)
    answer.delay_s = max(0.0, seconds)
    return answer


def _tell(request: Request, facts: Facts) -> Answer:
    told = {
        "pod": facts.pod or facts.hostname,
        "namespace": facts.namespace,
        "node": facts.node,
        "podIP": facts.ip,
        "container": facts.container,
        "client": _endpoint(request.client, request.client_port),
        "port": str(request.port),
        "method": request.method,
        "host": request.headers.get("host", ""),
        "path": request.path,
    }
    forwarded = request.headers.get("x-forwarded-for")
    if forwarded:
        told["forwardedFor"] = forwarded
    wants_json = "json" in request.headers.get("accept", "") or request.query.get("format") == ["json"]
    if wants_json or request.path == "/json":
        return _as_json(told)
    return Answer(body="".join(f"{k}: {v}\n" for k, v in told.items()).encode())


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _as_json(value: object) -> Answer:
    return Answer(body=json.dumps(value).encode() + b"\n", content_type="application/json")
