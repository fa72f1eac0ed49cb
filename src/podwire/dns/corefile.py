"""The Corefile -> settings, or what is wrong with it, with line and column. Pure.

.:53 {
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from podwire.dns.index import PodMode
from podwire.model.errors import BadInput, Problem

_UNSUPPORTED = frozenset({
    "acl", "any", "auto", "autopath", "azure", "bind", "bufsize", "cancel", "chaos", "clouddns",
    "debug", "dns64", "dnssec", "dnstap", "erratic", "etcd", "file", "geoip", "grpc", "header",
    "https", "import", "k8s_external", "local", "metadata", "minimal", "multisocket", "nsid",
    "quic", "pprof", "rewrite", "root", "route53", "secondary", "sign", "template", "timeouts",
    "tls", "trace", "transfer", "tsig", "view", "whoami", "on",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The `kubernetes` directive."""

    zones: tuple[str, ...] = ("cluster.local",)
    pods: PodMode = "disabled"
    ttl_s: int = 5  # CoreDNS' own default
    fallthrough: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    endpoint_pod_names: bool = False


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The `forward` directive. ``to``: addresses, with ports, or paths of resolv.conf files."""

    zone: str = "."
    to: tuple[str, ...] = ()
    max_concurrent: int = 0  # 0: no limit
    policy: str = "random"


@dataclass(frozen=True, slots=True)
class Settings:
    """One server block, understood."""

    port: int = 53
    kubernetes: Kubernetes | None = None
    forward: Forwarding | None = None
    health: tuple[str, int] | None = None
    lameduck_s: float = 0.0
    ready: tuple[str, int] | None = None
    prometheus: tuple[str, int] | None = None
    cache_s: int = 0
    errors: bool = False
    log: bool = False
    loop: bool = False
    reload_s: float = 0.0
    loadbalance: bool = False
    hosts: tuple[tuple[str, str], ...] = ()  # (name, address)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the file and where it stands, both counted from 1."""

    text: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Directive:
    """A directive: its words on one line, and the block that follows, line by line."""

    words: tuple[Word, ...]
    block: tuple[tuple[Word, ...], ...] = field(default=())

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words after the name."""
        return tuple(w.text for w in self.words[1:])


def parse_corefile(text: str, source: str = "Corefile") -> Settings:
    """Return the settings. Raises BadInput with the line, the column and what was expected."""
    lines = _lines(text, source)
    blocks = _server_blocks(lines, source)
    if len(blocks) != 1:
        second = blocks[1][0][0] if len(blocks) > 1 else Word("", 1, 1)
        raise _wrong(source, second, f"one server block is expected, there are {len(blocks)}")
    keys, directives = blocks[0]
    settings = replace(Settings(), port=_port_of(keys, source))
    seen: set[str] = set()
    for directive in directives:
        name = directive.words[0]
        parse = _DIRECTIVES.get(name.text)
        if parse is None:
            why = "is not supported here" if name.text in _UNSUPPORTED else "is not a directive"
            known = ", ".join(sorted(_DIRECTIVES))
            raise _wrong(source, name, f"{name.text!r} {why}; expected one of {known}")
        if name.text in seen:
            raise _wrong(source, name, f"{name.text!r} appears twice")
        seen.add(name.text)
        settings = parse(settings, directive, source)
    return settings


def _wrong(source: str, word: Word, why: str) -> BadInput:
    return BadInput(Problem(source, f"line {word.line}, column {word.column}", why))


def _lines(text: str, source: str) -> list[tuple[Word, ...]]:
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        words, at = [], 0
        while at < len(line):
            if line[at].isspace():
                at += 1
            elif line[at] == "#":
                break
            elif line[at] == '"':
                end = line.find('"', at + 1)
                if end < 0:
                    raise _wrong(source, Word("", number, at + 1), "the quotation has no end")
                words.append(Word(line[at + 1 : end], number, at + 1))
                at = end + 1
            else:
                end = at
                while end < len(line) and not line[end].isspace():
                    end += 1
                words.append(Word(line[at:end], number, at + 1))
                at = end
        if words:
            lines.append(tuple(words))
    return lines


_Block = tuple[tuple[Word, ...], list[Directive]]


def _server_blocks(lines: Sequence[tuple[Word, ...]], source: str) -> list[_Block]:
    blocks: list[_Block] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line[-1].text != "{" or len(line) < 2:
            raise _wrong(source, line[-1], "expected a server block: ZONE:PORT {")
        directives: list[Directive] = []
        at += 1
        while True:
            if at >= len(lines):
                raise _wrong(source, line[-1], "this block has no closing }")
            words = lines[at]
            if words[0].text == "}":
                at += 1
                break
            if words[-1].text == "{":
                inner, at = _inner_block(lines, at, source)
                directives.append(Directive(words[:-1], inner))
            else:
                directives.append(Directive(words))
                at += 1
        blocks.append((line[:-1], directives))
    return blocks


def _inner_block(
    lines: Sequence[tuple[Word, ...]], start: int, source: str
) -> tuple[tuple[tuple[Word, ...], ...], int]:
    if len(lines[start]) < 2:
        raise _wrong(source, lines[start][0], "expected a directive before {")
    at = start + 1
    while at < len(lines) and lines[at][0].text != "}":
        if lines[at][-1].text == "{":
            raise _wrong(source, lines[at][-1], "a block inside this block is not expected")
        at += 1
    if at >= len(lines):
        raise _wrong(source, lines[start][-1], "this block has no closing }")
    return tuple(lines[start + 1 : at]), at + 1


def _port_of(keys: Sequence[Word], source: str) -> int:
    ports = set()
    for key in keys:
        zone, _, port = key.text.rstrip(",").removeprefix("dns://").rpartition(":")
        if not zone:
            zone, port = port, "53"
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise _wrong(source, key, f"{port!r} is not a port")
        if zone not in (".", ""):
            raise _wrong(source, key, f"zone {zone!r}: only the root zone '.' is served as a block")
        ports.add(int(port))
    if len(ports) != 1:
        raise _wrong(source, keys[0], "one port is expected")
    return ports.pop()


# --- directives


def _seconds(word: Word, source: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit in ("ms", "s", "m", "h"):
        number = word.text.removesuffix(unit)
        if number != word.text and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    raise _wrong(source, word, f"{word.text!r} is not a duration such as 5s")


def _integer(word: Word, source: str, low: int, high: int) -> int:
    if not word.text.isdigit() or not low <= int(word.text) <= high:
        raise _wrong(source, word, f"{word.text!r}: a number from {low} to {high} is expected")
    return int(word.text)


def _argument(line: Sequence[Word], source: str) -> Word:
    if len(line) != 2:
        raise _wrong(source, line[0], f"{line[0].text!r} takes one value")
    return line[1]


def _refuse_block(directive: Directive, source: str) -> None:
    if directive.block:
        raise _wrong(source, directive.block[0][0], f"{directive.words[0].text!r} takes no block")


def _refuse_words(directive: Directive, source: str) -> None:
    _refuse_block(directive, source)
    if len(directive.words) > 1:
        raise _wrong(source, directive.words[1], f"{directive.words[0].text!r} takes no value")


def _address(directive: Directive, default_port: int, source: str) -> tuple[str, int]:
    if len(directive.words) == 1:
        return "", default_port
    word = _argument(directive.words, source)
    host, colon, port = word.text.rpartition(":")
    if not colon or not port.isdigit():
        raise _wrong(source, word, f"{word.text!r}: [ADDRESS]:PORT is expected")
    return host.strip("[]"), int(port)


def _errors(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_words(d, source)
    return replace(settings, errors=True)


def _log(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_words(d, source)
    return replace(settings, log=True)


def _loop(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_words(d, source)
    return replace(settings, loop=True)


def _health(settings: Settings, d: Directive, source: str) -> Settings:
    lameduck_s = 0.0
    for line in d.block:
        if line[0].text != "lameduck":
            raise _wrong(source, line[0], "expected lameduck DURATION")
        lameduck_s = _seconds(_argument(line, source), source)
    return replace(settings, health=_address(d, 8080, source), lameduck_s=lameduck_s)


def _ready(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_block(d, source)
    return replace(settings, ready=_address(d, 8181, source))


def _prometheus(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_block(d, source)
    return replace(settings, prometheus=_address(d, 9153, source))


def _reload(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_block(d, source)
    if len(d.words) > 3:
        raise _wrong(source, d.words[3], "reload takes an interval and a jitter")
    return replace(settings, reload_s=_seconds(d.words[1], source) if len(d.words) > 1 else 30.0)


def _loadbalance(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_block(d, source)
    if d.arguments not in ((), ("round_robin",)):
        raise _wrong(source, d.words[1], "only round_robin is supported")
    return replace(settings, loadbalance=True)


def _cache(settings: Settings, d: Directive, source: str) -> Settings:
    _refuse_block(d, source)
    if len(d.words) > 2:
        raise _wrong(source, d.words[2], "cache for chosen zones is not supported")
    return replace(settings, cache_s=_integer(d.words[1], source, 0, 86400) if len(d.words) == 2 else 3600)


def _kubernetes(settings: Settings, d: Directive, source: str) -> Settings:
    k = Kubernetes(zones=tuple(z.rstrip(".") for z in d.arguments) or ("cluster.local",))
    for line in d.block:
        name, values = line[0].text, tuple(w.text for w in line[1:])
        if name == "pods":
            mode = _argument(line, source)
            if mode.text not in ("disabled", "insecure", "verified"):
                raise _wrong(source, mode, "expected disabled, insecure or verified")
            k = replace(k, pods=mode.text)  # type: ignore[arg-type]
        elif name == "ttl":
            k = replace(k, ttl_s=_integer(_argument(line, source), source, 0, 3600))
        elif name == "fallthrough":
            k = replace(k, fallthrough=values or (".",))
        elif name == "namespaces" and values:
            k = replace(k, namespaces=values)
        elif name == "endpoint_pod_names" and not values:
            k = replace(k, endpoint_pod_names=True)
        else:
            expected = "pods, ttl, fallthrough, namespaces or endpoint_pod_names"
            raise _wrong(source, line[0], f"{name!r} is not supported here; expected {expected}")
    return replace(settings, kubernetes=k)


def _forward(settings: Settings, d: Directive, source: str) -> Settings:
    if len(d.words) < 3:
        raise _wrong(source, d.words[0], "expected forward ZONE UPSTREAM...")
    if d.words[1].text != ".":
        raise _wrong(source, d.words[1], "only '.' is forwarded")
    for word in d.words[2:]:
        if not word.text.startswith("/") and not _is_upstream(word.text):
            raise _wrong(source, word, f"{word.text!r} is neither an address nor a file (TLS is not supported)")
    f = Forwarding(".", d.arguments[1:])
    for line in d.block:
        value = _argument(line, source)
        if line[0].text == "max_concurrent":
            f = replace(f, max_concurrent=_integer(value, source, 0, 1_000_000))
        elif line[0].text == "policy" and value.text in ("random", "round_robin", "sequential"):
            f = replace(f, policy=value.text)
        else:
            raise _wrong(source, line[0], "expected max_concurrent N or policy random|round_robin|sequential")
    return replace(settings, forward=f)


def split_upstream(text: str) -> tuple[str, int]:
    """Return address and port of "10.0.0.1", "10.0.0.1:53" or "[fd00::1]:53". Raises ValueError."""
    text = text.removeprefix("dns://")
    try:
        return str(ip_address(text)), 53
    except ValueError:
        host, _, port = text.rpartition(":")
        return str(ip_address(host.strip("[]"))), int(port)


def _is_upstream(text: str) -> bool:
    try:
        split_upstream(text)
    except ValueError:
        return False
    return True


def _hosts(settings: Settings, d: Directive, source: str) -> Settings:
    if len(d.words) > 1:
        raise _wrong(source, d.words[1], "a hosts file is not supported; write the entries into the block")
    entries: list[tuple[str, str]] = []
    for line in d.block:
        if line[0].text == "fallthrough":
            continue
        try:
            address = str(ip_address(line[0].text))
        except ValueError:
            raise _wrong(source, line[0], "expected ADDRESS NAME... or fallthrough") from None
        entries += ((word.text.rstrip(".").lower(), address) for word in line[1:])
    return replace(settings, hosts=tuple(entries))


_DIRECTIVES: dict[str, Callable[[Settings, Directive, str], Settings]] = {
    "cache": _cache, "errors": _errors, "forward": _forward, "health": _health, "hosts": _hosts,
    "kubernetes": _kubernetes, "loadbalance": _loadbalance, "log": _log, "loop": _loop,
    "prometheus": _prometheus, "ready": _ready, "reload": _reload,
}  # fmt: skip
