"""The built-in server on real sockets, in a network namespace that has nothing but a loopback."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podwire.kernel import libc
from podwire.node.runtime import builtin_server

pytestmark = pytest.mark.kernel

PORT, UDP_PORT = 8080, 5353


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Callable[..., socket.socket], int]]:
    """A server as pid 1 would be it; yields a way to connect, and its pid."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc.unshare(libc.CLONE_NEWNET)
    inside = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.system("ip link set lo up")
    pid = os.fork()
    if pid == 0:
        log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["PODWIRE_SERVER_PORTS"] = f"{PORT}/TCP,{UDP_PORT}/UDP"
        os.environ["PODWIRE_SERVER_FACTS"] = '{"pod": "p", "namespace": "d", "node": "n", "ip": "10.0.0.1"}'
        os._exit(builtin_server.main(["nginx"]))
    libc.setns(home)

    def connect(kind: int = socket.SOCK_STREAM, address: str = "127.0.0.1") -> socket.socket:
        for _ in range(200):
            libc.setns(inside)
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            libc.setns(home)
            sock.settimeout(5)
            try:
                sock.connect((address, PORT if kind == socket.SOCK_STREAM else UDP_PORT))
            except ConnectionRefusedError:
                sock.close()
                time.sleep(0.01)
            else:
                return sock
        raise AssertionError("nobody listens")

    yield connect, pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    os.close(home)
    os.close(inside)


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """Return status and body of one answer."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(1)
        assert piece, "closed"
        head += piece
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += sock.recv(length - len(body))
    return int(head.split()[1]), body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


Server = tuple[Callable[..., socket.socket], int]


def test_keep_alive_pipelining_and_both_families(server: Server) -> None:
    connect, _ = server
    for address, seen in (("127.0.0.1", b"127.0.0.1:"), ("::1", b"[::1]:")):
        sock = connect(address=address)
        sock.sendall(get("/clientip") + get("/status/404") + get("/healthz")[:9])
        assert read_answer(sock)[1].startswith(seen)
        assert read_answer(sock) == (404, b"404 Not Found\n")
        sock.sendall(get("/healthz")[9:])
        assert read_answer(sock) == (200, b"ok\n")
        sock.close()


def test_bodies_in_pieces_and_large_answers(server: Server) -> None:
    connect, _ = server
    sock = connect()
    sock.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc")
    sock.sendall(b"def" + get("/bytes/3000000"))
    assert read_answer(sock) == (200, b"abcdef")
    assert read_answer(sock) == (200, b"x" * 3_000_000)


def test_a_client_that_waits_for_100_continue(server: Server) -> None:
    connect, _ = server
    sock = connect()
    sock.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"ok")
    assert read_answer(sock) == (200, b"ok")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"hello\n", b"hello\n"),
        (b"PING\r\n", b"+PONG\r\n"),
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
        (b"\x00\x01", b"\x00\x01"),
    ],
)
def test_what_is_not_http(server: Server, sent: bytes, answer: bytes) -> None:
    connect, _ = server
    sock = connect()
    sock.sendall(sent)
    got = b""
    while len(got) < len(answer):
        got += sock.recv(100)
    assert got == answer


def test_datagrams(server: Server) -> None:
    connect, _ = server
    read_answer_of_tcp = connect()  # the server is up when this has been accepted
    read_answer_of_tcp.close()
    sock = connect(kind=socket.SOCK_DGRAM)
    sock.send(b"echo same")
    assert sock.recv(100) == b"same"
    sock.send(b"anything")
    assert sock.recv(200).startswith(b"d/p on n (10.0.0.1) saw 127.0.0.1:")


def test_sigterm_lets_requests_in_flight_finish(server: Server, tmp_path: Path) -> None:
    connect, pid = server
    slow, idle = connect(), connect()
    slow.sendall(get("/delay/0.3"))
    idle.sendall(get("/healthz"))
    assert read_answer(idle)[0] == 200
    os.kill(pid, signal.SIGTERM)
    status, body = read_answer(slow)
    assert status == 200
    assert b"pod: p" in body
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "podwire built-in server: listening on 8080/tcp 5353/udp"
    assert '"GET /delay/0.3 HTTP/1.1" 200' in lines[-2] + lines[-1]


def test_a_client_that_leaves_early_harms_nobody(server: Server) -> None:
    connect, _ = server
    for _ in range(20):
        sock = connect()
        sock.sendall(get("/bytes/1000000"))
        sock.close()
    waiting = connect()
    waiting.sendall(get("/delay/0.05"))
    waiting.close()
    time.sleep(0.1)
    sock = connect()
    sock.sendall(get("/healthz"))
    assert read_answer(sock) == (200, b"ok\n")


def test_sigterm_still_serves_whoever_is_on_the_way(server: Server) -> None:
    connect, pid = server
    first = connect()
    first.sendall(get("/healthz"))
    assert read_answer(first)[0] == 200
    os.kill(pid, signal.SIGTERM)
    late = connect()  # a Service had chosen this pod before it heard
    late.sendall(get("/healthz"))
    assert read_answer(late)[0] == 200
    assert late.recv(1) == b""  # and is asked to come to another pod next time
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
