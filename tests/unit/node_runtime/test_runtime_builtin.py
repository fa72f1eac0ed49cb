"""The built-in server without a socket: options and answers."""

from __future__ import annotations

import json

import pytest

from podwire.node.runtime.builtin_connect import _read
from podwire.node.runtime.builtin_http import Answer, Facts, parse_request, respond
from podwire.node.runtime.builtin_options import Options, read_options

FACTS = Facts("web-1", "shop", "node-0", "10.244.0.7", "main", "web-1")


@pytest.mark.parametrize(
    ("argv", "ports", "tcp", "udp"),
    [
        ("nginx -g x", "80/TCP", (80,), ()),
        ("nginx", "80/TCP,53/UDP,99/SCTP", (80,), (53,)),
        ("/http-echo -listen=:5678 -text=hi", "5678/TCP", (5678,), ()),
        ("/whoami --port 8123", "", (8123,), ()),
        ("redis-server --bind 0.0.0.0 --port 7000", "6379/TCP", (6379, 7000), ()),
        ("/agnhost netexec", "", (8080,), (8081,)),
        ("/agnhost netexec --http-port=81 --udp-port 82", "", (81,), (82,)),
        ("/agnhost serve-hostname", "", (9376,), ()),
        ("/agnhost serve-hostname --port=80 --udp", "", (80,), (80,)),
        ("/agnhost porter", "", (1080,), ()),
        ("/agnhost pause", "80/TCP", (), ()),
        ("/pause", "", (), ()),
        ("x --port 99999", "", (), ()),
    ],
)
def test_ports(argv: str, ports: str, tcp: tuple[int, ...], udp: tuple[int, ...]) -> None:
    options = read_options(argv.split(), {"PODWIRE_SERVER_PORTS": ports, "SERVE_PORT_1080": "x"})
    assert (options.tcp, options.udp) == (tcp, udp)


def test_words() -> None:
    assert read_options(["/http-echo", "-text=hello you"], {}).text == "hello you"
    assert read_options(["/agnhost", "serve-hostname"], {}).hostname_only
    assert read_options(["/agnhost", "connect", "a:1"], {}) == Options(connect=("a:1",))


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (("h:80",), ("h:80", 0.0, "tcp")),
        (("h:80", "--timeout=500ms", "--protocol=udp"), ("h:80", 0.5, "udp")),
        (("--timeout=2s", "[fd00::1]:80"), ("[fd00::1]:80", 2.0, "tcp")),
    ],
)
def test_connect_arguments(words: tuple[str, ...], read: tuple[str, float, str]) -> None:
    assert _read(words) == read


def ask(head: str, body: bytes = b"", text: str = "", hostname_only: bool = False) -> Answer:
    request = parse_request(head.replace("\n", "\r\n").encode(), body, "10.0.0.9", 4000, 80)
    return respond(request, FACTS, text, hostname_only)


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        ("GET /healthz HTTP/1.1", 200, b"ok\n"),
        ("GET /hostname HTTP/1.1", 200, b"web-1"),
        ("GET /clientip HTTP/1.1", 200, b"10.0.0.9:4000"),
        ("GET /echo?msg=a%20b HTTP/1.1", 200, b"a b"),
        ("GET /status/503 HTTP/1.1", 503, b"503 Service Unavailable\n"),
        ("GET /bytes/3 HTTP/1.1", 200, b"xxx"),
        ("nonsense", 400, b"400 Bad Request\n"),
        ("GET http://[ HTTP/1.1", 200, None),
        ("GET /status/99 HTTP/1.1", 200, None),
    ],
)
def test_answers(line: str, status: int, body: bytes | None) -> None:
    answer = ask(line)
    assert answer.status == status
    assert body is None or answer.body == body


def test_who_answers_is_told_as_text_and_as_json() -> None:
    text = ask("GET /some/path HTTP/1.1\nHost: web.shop").body.decode()
    assert "pod: web-1\nnamespace: shop\nnode: node-0\npodIP: 10.244.0.7\n" in text
    assert "client: 10.0.0.9:4000\n" in text
    assert "host: web.shop\npath: /some/path\n" in text
    for head in ("GET / HTTP/1.1\nAccept: application/json", "GET /?format=json HTTP/1.1", "GET /json HTTP/1.1"):
        answer = ask(head)
        assert json.loads(answer.body)["pod"] == "web-1"
        assert answer.content_type == "application/json"


def test_text_and_host_name_answers() -> None:
    assert ask("GET / HTTP/1.1", text="hi").body == b"hi\n"
    assert ask("GET / HTTP/1.1", hostname_only=True).body == b"web-1"
    assert ask("POST /echo HTTP/1.1", b"sent").body == b"sent"


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        ("GET / HTTP/1.1", True),
        ("GET / HTTP/1.1\nConnection: close", False),
        ("GET / HTTP/1.0", False),
        ("GET / HTTP/1.0\nConnection: Keep-Alive", True),
    ],
)
def test_keep_alive(head: str, keeps: bool) -> None:
    answer = ask(head)
    assert answer.keep_alive is keeps
    assert (b"Connection: keep-alive" in answer.encode()) is keeps


def test_bodiless_answers() -> None:
    head = ask("HEAD /bytes/5 HTTP/1.1").encode()
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 5\r\n" in head
    assert b"Content-Length" not in ask("GET /status/204 HTTP/1.1").encode()


def test_delay() -> None:
    assert ask("GET /delay/1.5 HTTP/1.1").delay_s == 1.5
    assert ask("GET /delay/soon HTTP/1.1").status == 400
