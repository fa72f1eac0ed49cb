"""template CLASS TYPE [ZONE...] { match REGEX; answer RR; additional RR; authority RR; rcode CODE; fallthrough }."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step
from podwire.dns.words import Directive, Word, argument, wrong
from podwire.dns.zonetext import parse_record
from podwire.wire import dns as wire

_HOLE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_RCODES = {word: number for number, word in wire.RCODES.items()}
_KNOWN_HOLES = re.compile(r'\.(Name|Type|Class|Zone|Remote)|\.Group\.\w+|index \.Match \d+|index \.Group "\w+"')


@dataclass(frozen=True, slots=True)
class Template:
    """The directive. ``type`` 0: any. Records are text with holes such as {{ .Name }}."""

    type: int
    zones: tuple[bytes, ...]
    matches: tuple[str, ...] = (".*",)
    answers: tuple[str, ...] = ()
    additionals: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    rcode: int = wire.NOERROR
    fallthrough: tuple[bytes, ...] | None = field(default=None)


def parse(d: Directive, source: str) -> Template:
    """Return the template. Raises BadInput."""
    if len(d.words) < 3:
        raise wrong(source, d.words[0], "expected template CLASS TYPE [ZONE...]")
    if d.words[1].text not in ("IN", "ANY"):
        raise wrong(source, d.words[1], "expected class IN or ANY")
    kind = d.words[2]
    if kind.text != "ANY" and kind.text not in wire.TYPES:
        raise wrong(source, kind, f"{kind.text!r} is not a record type; known are {', '.join(wire.TYPES)}")
    zones = tuple(wire.encode_name(w.text).lower() for w in d.words[3:]) or (wire.ROOT,)
    made = Template(0 if kind.text == "ANY" else wire.TYPES[kind.text], zones)
    matches: list[str] = []
    for line in d.block:
        made = _parse_line(made, line, matches, source)
    return replace(made, matches=tuple(matches)) if matches else made


def _parse_line(made: Template, line: Sequence[Word], matches: list[str], source: str) -> Template:
    word = line[0].text
    if word == "match":
        for pattern in line[1:]:
            try:
                re.compile(pattern.text)
            except re.error as error:
                raise wrong(source, pattern, f"{pattern.text!r} is not a regular expression: {error}") from None
            matches.append(pattern.text)
    elif word in ("answer", "additional", "authority"):
        text = _check(argument(line, source), source)
        plural = {"answer": "answers", "additional": "additionals", "authority": "authorities"}[word]
        made = replace(made, **{plural: (*getattr(made, plural), text)})  # type: ignore[arg-type]
    elif word == "rcode":
        code = argument(line, source)
        if code.text not in _RCODES:
            raise wrong(source, code, f"expected one of {', '.join(_RCODES)}")
        made = replace(made, rcode=_RCODES[code.text])
    elif word == "fallthrough":
        made = replace(made, fallthrough=tuple(wire.encode_name(w.text).lower() for w in line[1:]) or (wire.ROOT,))
    else:
        raise wrong(source, line[0], "expected match, answer, additional, authority, rcode or fallthrough")
    return made


def _check(word: Word, source: str) -> str:
    for hole in _HOLE.findall(word.text):
        if not _KNOWN_HOLES.fullmatch(hole):
            raise wrong(source, word, f"{{{{ {hole} }}}} is not supported; .Name .Type .Class .Zone .Remote "
                        ".Group.NAME and index .Match N are")  # fmt: skip
    return word.text


def plugin(templates: Sequence[Template], responder: Responder) -> Plugin:
    """Return what answers from templates."""

    def answer(query: Query, next: Step) -> Outcome:
        asked = query.asked
        for template in templates:
            zone = next_zone(template.zones, asked.name)
            if zone is None or template.type not in (0, asked.type):
                continue
            text = wire.name_text(asked.name)
            found = next_match(template.matches, text)
            if found is None:
                through = template.fallthrough
                if through is None or next_zone(through, asked.name) is None:
                    return responder.refuse(asked, wire.NXDOMAIN, query.protocol)
                continue
            return _render(query, template, found, zone)
        return next(query)

    def _render(query: Query, template: Template, found: re.Match[str], zone: bytes) -> Outcome:
        fill = _filler(query, found, zone)
        try:
            sections = [
                tuple(parse_record(_HOLE.sub(fill, text)) for text in texts)
                for texts in (template.answers, template.authorities, template.additionals)
            ]
        except wire.Malformed as error:
            return responder.refuse(query.asked, wire.SERVFAIL, query.protocol, (0, f"template: {error}"))
        flags = wire.QR | wire.AA | template.rcode & 15
        message = wire.Message(0, flags, (), sections[0], sections[1], sections[2])
        return responder.assemble_records(query.asked, message, wire.encode_records(sections[0]), query.protocol)

    return answer


def next_zone(zones: Sequence[bytes], name: bytes) -> bytes | None:
    """Return the longest of the zones that holds the name."""
    return max((z for z in zones if wire.is_within(name, z)), key=len, default=None)


def next_match(patterns: Sequence[str], text: str) -> re.Match[str] | None:
    """Return the first match of a name."""
    return next((m for m in (re.search(p, text) for p in patterns) if m), None)


def _filler(query: Query, found: re.Match[str], zone: bytes) -> Callable[[re.Match[str]], str]:
    asked = query.asked
    types = {number: word for word, number in wire.TYPES.items()}
    values: Mapping[str, str] = {
        ".Name": wire.name_text(asked.owner), ".Type": types.get(asked.type, f"TYPE{asked.type}"), ".Class": "IN",
        ".Zone": wire.name_text(zone), ".Remote": query.client,
    }  # fmt: skip

    def fill(hole: re.Match[str]) -> str:
        inside = hole[1]
        if inside in values:
            return values[inside]
        name = inside.removeprefix(".Group.").removeprefix("index .Group ").strip('"')
        if inside.startswith("index .Match"):
            number = int(inside.split()[-1])
            return (found[number] or "") if number <= found.re.groups else ""
        return found.groupdict().get(name) or ""

    return fill
