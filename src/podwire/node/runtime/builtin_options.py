"""What the built-in server is told by its command line and its environment. Pure.

Each server image has options of its own for the port it listens on; the ones that people use are understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_PORT_OPTIONS = frozenset({"http-port", "port", "p", "listen", "bind", "addr", "tcp-port", "health-port"})


@dataclass(frozen=True, slots=True)
class Options:
    """``connect``: be agnhost's client with these arguments, and serve nothing."""

    tcp: tuple[int, ...] = ()
    udp: tuple[int, ...] = ()
    text: str = ""
    hostname_only: bool = False
    connect: tuple[str, ...] | None = None


def read_options(argv: Sequence[str], env: Mapping[str, str]) -> Options:
    """Return what to listen on and what to say: the declared ports and those on the command line."""
    program = argv[0].rsplit("/", 1)[-1] if argv else ""
    words = list(argv[1:])
    command = words[0] if program == "agnhost" and words else ""
    if command == "connect":
        return Options(connect=tuple(words[1:]))
    tcp, udp = _declared(env.get("PODWIRE_SERVER_PORTS", ""))
    if program == "pause" or command == "pause":
        return Options()
    options = dict(_options(words))
    tcp += [p for name, value in options.items() if name in _PORT_OPTIONS for p in _port(value)]
    udp += _port(options.get("udp-port", ""))
    if command == "netexec":
        tcp += [] if "http-port" in options else [8080]
        udp += [] if "udp-port" in options else [8081]
    if command in ("serve-hostname", "test-webserver") and "port" not in options:
        tcp.append(9376 if command == "serve-hostname" else 80)
    if command == "serve-hostname" and options.get("udp") in ("", "true"):
        udp += tcp
    if command == "porter":
        tcp += [int(n[11:]) for n in env if n.startswith("SERVE_PORT_") and n[11:].isdigit()]
    return Options(
        tuple(dict.fromkeys(p for p in tcp if 0 < p < 65536)),
        tuple(dict.fromkeys(p for p in udp if 0 < p < 65536)),
        options.get("text", ""),
        "serve-hostname" in (program, command) or program == "serve_hostname",
    )


def _declared(listed: str) -> tuple[list[int], list[int]]:
    """Read "80/TCP,53/UDP"; SCTP ports are not served."""
    tcp: list[int] = []
    udp: list[int] = []
    for item in listed.split(",") if listed else ():
        number, _, protocol = item.partition("/")
        if protocol == "TCP":
            tcp.append(int(number))
        elif protocol == "UDP":
            udp.append(int(number))
    return tcp, udp


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values of "--name=value", "-name value" and "--flag" (value "")."""
    for place, word in enumerate(words):
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        following = words[place + 1] if place + 1 < len(words) else ""
        yield name, value if equals or following.startswith("-") else following


def _port(value: str) -> list[int]:
    """Return the port of "8080", ":8080" or "0.0.0.0:8080"; none for anything else."""
    last = value.rpartition(":")[2]
    return [int(last)] if last.isdigit() else []
