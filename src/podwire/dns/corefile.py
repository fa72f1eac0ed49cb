"""The Corefile -> settings, or what is wrong with it, with line and column. Pure.

.:53 {
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from podwire.dns.directives import DIRECTIVES, EVERYWHERE, REPEATABLE, UNSUPPORTED, split_upstream
from podwire.dns.settings import Forwarding, Kubernetes, Settings
from podwire.dns.words import Directive, Word, read_lines, server_blocks, wrong
from podwire.wire import dns as wire

__all__ = ["Forwarding", "Kubernetes", "Settings", "parse_corefile", "split_upstream"]


def parse_corefile(text: str, source: str = "Corefile") -> Settings:
    """Return the settings. Raises BadInput with the line, the column and what was expected."""
    parsed = server_blocks(read_lines(text, source), source)
    if not parsed:
        raise wrong(source, Word("", 1, 1), "expected a server block: ZONE:PORT {")
    blocks: list[tuple[Word, Word | None, Settings]] = []
    taken: set[str] = set()
    for keys, directives in parsed:
        port, zones = _parse_keys(keys, source)
        for zone in zones:
            if zone in taken:
                raise wrong(source, keys[0], f"zone {zone!r} is served by another block already")
            taken.add(zone)
        settings = _parse_block(replace(Settings(), port=port, zones=zones), directives, source)
        single = next((d.words[0] for d in directives if d.words[0].text not in EVERYWHERE), None)
        blocks.append((keys[0], single, settings))
    chief = next((i for i, (_, _, b) in enumerate(blocks) if b.kubernetes), None)
    if chief is None:
        chief = next((i for i, (_, _, b) in enumerate(blocks) if "." in b.zones), 0)
    _, _, main = blocks.pop(chief)
    for word, single, other in blocks:
        if other.port != main.port:
            raise wrong(source, word, f"one port is expected, {main.port}, for all blocks")
        if single is not None:
            raise wrong(source, single, f"{single.text!r} may stand in one server block only")
    return _join(main, [b for _, _, b in blocks])


def _join(main: Settings, others: Sequence[Settings]) -> Settings:
    """Return the main block with the others in it; what a process has once is taken from where it stands."""
    everything = (main, *others)
    return replace(
        main,
        others=tuple(others),
        errors=any(b.errors for b in everything),
        loop=any(b.loop for b in everything),
        reload_s=max(b.reload_s for b in everything),
        health=next((b.health for b in everything if b.health), None),
        lameduck_s=max(b.lameduck_s for b in everything),
        ready=next((b.ready for b in everything if b.ready), None),
        prometheus=next((b.prometheus for b in everything if b.prometheus), None),
    )


def _parse_block(settings: Settings, directives: Sequence[Directive], source: str) -> Settings:
    seen: set[str] = set()
    for directive in directives:
        name = directive.words[0]
        parse = DIRECTIVES.get(name.text)
        if parse is None:
            why = "is not supported here" if name.text in UNSUPPORTED else "is not a directive"
            known = ", ".join(sorted(DIRECTIVES))
            raise wrong(source, name, f"{name.text!r} {why}; expected one of {known}")
        if name.text in seen and name.text not in REPEATABLE:
            raise wrong(source, name, f"{name.text!r} appears twice")
        seen.add(name.text)
        try:
            settings = parse(settings, directive, source)
        except wire.Malformed as error:
            raise wrong(source, name, str(error)) from None
    return settings


def _parse_keys(keys: Sequence[Word], source: str) -> tuple[int, tuple[str, ...]]:
    ports: set[int] = set()
    zones: list[str] = []
    for key in keys:
        text = key.text.rstrip(",").removeprefix("dns://")
        zone, colon, port = text.rpartition(":")
        if not colon:
            zone, port = port, "53"
        if "://" in text:
            raise wrong(source, key, f"{key.text!r}: only plain DNS is served (dns://)")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise wrong(source, key, f"{port!r} is not a port")
        try:
            zones.append(wire.name_text(wire.encode_name(zone or ".")).lower())
        except wire.Malformed as error:
            raise wrong(source, key, str(error)) from None
        ports.add(int(port))
    if len(ports) != 1:
        raise wrong(source, keys[0], "one port is expected")
    return ports.pop(), tuple(zones)
