"""agnhost's ``connect HOST:PORT [--timeout=1s] [--protocol=tcp|udp]``: one try, and a word about how it went.

NetworkPolicy tests are written with it. It says nothing and leaves with 0 when the connection comes about;
else it writes TIMEOUT, REFUSED, DNS or OTHER to standard error and leaves with 1.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


def main(arguments: Sequence[str]) -> int:
    """Try once; return the exit code."""
    target, timeout_s, protocol = _read(arguments)
    host, _, port = target.rpartition(":")
    word = _try(host.strip("[]"), port, timeout_s, protocol)
    if word:
        os.write(2, f"{word}\n".encode())
        return 1
    return 0


def _read(arguments: Sequence[str]) -> tuple[str, float, str]:
    target, timeout_s, protocol = "", 0.0, "tcp"
    for word in arguments:
        name, _, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            target = word
        elif name == "timeout":
            timeout_s = _seconds(value)
        elif name == "protocol":
            protocol = value
    return target, timeout_s, protocol


def _seconds(text: str) -> float:
    for unit, factor in _UNITS_S.items():
        if text.endswith(unit) and text.removesuffix(unit).replace(".", "", 1).isdigit():
            return float(text.removesuffix(unit)) * factor
    return 0.0


def _try(host: str, port: str, timeout_s: float, protocol: str) -> str:
    """Return "" when it worked, else the word for why not."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except (OSError, UnicodeError):
        return "DNS"
    with socket.socket(family, kind) as sock:
        sock.settimeout(timeout_s or None)
        try:
            sock.connect(address)
            if protocol == "udp":
                sock.send(b"hostname\n")
                sock.recv(1024)
        except TimeoutError:
            return "TIMEOUT"
        except ConnectionRefusedError:
            return "REFUSED"
        except OSError:
            return "OTHER"
    return ""
