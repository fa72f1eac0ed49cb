"""rewrite [continue|stop] name|type ...: the query is changed on its way in, names are turned back on the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from podwire.dns.responder import Outcome, Plugin, Query, Responder, Step, and_then, asking, retyped
from podwire.dns.words import Directive, Word, wrong
from podwire.wire import dns as wire

_MATCHES = ("exact", "prefix", "suffix", "substring", "regex")


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """How names (or record data: ``value``) in the answer change: a pattern and what takes its place."""

    value: bool
    pattern: str
    becomes: str


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """One rule. ``match`` is "type", or how a name is compared. ``old`` and ``new`` are lower case."""

    match: str
    old: str
    new: str
    go_on: bool = False
    answers: tuple[AnswerRule, ...] = ()

    def renamed(self, name: str) -> str | None:
        """Return what a lower-case name with its final dot becomes; None when the rule does not match it."""
        old, new = self.old, self.new
        if self.match == "exact":
            return new if name == old else None
        if self.match == "prefix":
            return new + name[len(old) :] if name.startswith(old) else None
        if self.match == "suffix":
            return name[: -len(old)] + new if old and name.endswith(old) else None
        if self.match == "substring":
            return name.replace(old, new) if old in name else None
        found = re.search(old, name)
        return _fill(new, found) if found else None


def _fill(text: str, found: re.Match[str]) -> str:
    """Return the text with {0}, {1} ... replaced by what the groups matched."""
    return re.sub(r"\{(\d+)\}", lambda m: found[int(m[1])] or "" if int(m[1]) <= found.re.groups else "", text)


def parse(d: Directive, source: str) -> RewriteRule:
    """Return the rule of one directive. Raises BadInput."""
    lines: list[Sequence[Word]] = [d.words[1:]] if len(d.words) > 1 else []
    go_on = False
    if lines and lines[0][0].text in ("continue", "stop"):
        go_on = lines[0][0].text == "continue"
        lines = [lines[0][1:]] if len(lines[0]) > 1 else []
    lines += d.block
    if not lines:
        raise wrong(source, d.words[-1], "expected rewrite [continue|stop] name|type FROM TO")
    rule = replace(_parse_rule(lines[0], source), go_on=go_on)
    answers = rule.answers + tuple(_parse_answer(line, source) for line in lines[1:])
    return replace(rule, answers=answers)


def _parse_rule(line: Sequence[Word], source: str) -> RewriteRule:
    field, words = line[0], list(line[1:])
    if field.text == "type":
        if len(words) != 2 or any(w.text not in wire.TYPES for w in words):
            raise wrong(source, field, f"expected type FROM TO, of {', '.join(wire.TYPES)}")
        return RewriteRule("type", words[0].text, words[1].text)
    if field.text in ("class", "edns0", "ttl", "rcode", "cname"):
        raise wrong(source, field, f"rewrite {field.text} is not supported; expected name or type")
    if field.text != "name":
        raise wrong(source, field, f"expected name or type, not {field.text!r}")
    match = words.pop(0).text if words and words[0].text in _MATCHES else "exact"
    if len(words) < 2:
        raise wrong(source, field, "expected name [exact|prefix|suffix|substring|regex] FROM TO [answer ...]")
    old, new, rest = words[0].text.lower(), words[1].text.lower(), words[2:]
    if match == "regex":
        _check_pattern(words[0], source)
    elif match in ("exact", "suffix"):
        old, new = old.rstrip(".") + ".", new.rstrip(".") + "."
    elif not old:
        raise wrong(source, words[0], "an empty text matches every name")
    answers: tuple[AnswerRule, ...] = ()
    if rest and [w.text for w in rest] == ["answer", "auto"]:
        rest = []
        if match == "suffix":
            answers = (AnswerRule(False, re.escape(new) + "$", old),)
        elif match == "prefix":
            answers = (AnswerRule(False, "^" + re.escape(new), old),)
    if rest:
        answers = (_parse_answer(rest, source),)
    return RewriteRule(match, old, new, answers=answers)


def _parse_answer(line: Sequence[Word], source: str) -> AnswerRule:
    words = list(line)
    if words[0].text != "answer" or len(words) not in (3, 4):
        raise wrong(source, words[0], "expected answer [name|value] FROM TO")
    kind = words[1].text if len(words) == 4 else "name"
    if kind not in ("name", "value"):
        raise wrong(source, words[1], "expected name or value")
    _check_pattern(words[-2], source)
    return AnswerRule(kind == "value", words[-2].text, words[-1].text)


def _check_pattern(word: Word, source: str) -> None:
    try:
        re.compile(word.text)
    except re.error as error:
        raise wrong(source, word, f"{word.text!r} is not a regular expression: {error}") from None


def plugin(rules: Sequence[RewriteRule], responder: Responder) -> Plugin:
    """Return what rewrites queries and turns answers back."""

    def rewrite(query: Query, next: Step) -> Outcome:
        asked, used = query.asked, list[RewriteRule]()
        for rule in rules:
            if rule.match == "type":
                if asked.type != wire.TYPES[rule.old]:
                    continue
                asked = retyped(asked, wire.TYPES[rule.new])
            else:
                name = rule.renamed(wire.name_text(asked.name))
                if name is None:
                    continue
                try:
                    asked = asking(asked, wire.encode_name(name))
                except wire.Malformed:
                    return responder.refuse(query.asked, wire.SERVFAIL, query.protocol, (0, f"rewritten to {name!r}"))
            used.append(rule)
            if not rule.go_on:
                break
        if not used:
            return next(query)
        answers = [a for rule in reversed(used) for a in rule.answers]
        inner = asked
        return and_then(next(replace(query, asked=asked)), lambda raw: _turn_back(query, inner.name, answers, raw))

    def _turn_back(query: Query, inner: bytes, answers: Sequence[AnswerRule], raw: bytes) -> bytes:
        found = wire.decode_message(raw)
        back = _back(query.asked.owner, inner, answers)
        records = tuple(_restore(r, back, answers) for r in found.answer)
        return responder.assemble_records(query.asked, found, wire.encode_records(records), query.protocol)

    return rewrite


def _back(owner: bytes, inner: bytes, answers: Sequence[AnswerRule]) -> Callable[[bytes], bytes]:
    def back(name: bytes) -> bytes:
        if name.lower() == inner:  # what was asked is what must be answered, or resolvers take it for a forgery
            return owner
        return _substitute(name, [a for a in answers if not a.value])

    return back


def _substitute(name: bytes, answers: Sequence[AnswerRule]) -> bytes:
    text = wire.name_text(name).lower()
    for answer in answers:
        found = re.search(answer.pattern, text)
        if found:
            text = text[: found.start()] + _fill(answer.becomes, found) + text[found.end() :]
            try:
                return wire.encode_name(text)
            except wire.Malformed:
                return name
    return name


def _restore(record: wire.Record, back: Callable[[bytes], bytes], answers: Sequence[AnswerRule]) -> wire.Record:
    values = [a for a in answers if a.value]
    data = record.rdata
    if values and record.type in (wire.CNAME, wire.PTR, wire.NS):
        data = _substitute(data, values)
    elif values and record.type == wire.SRV:
        data = data[:6] + _substitute(data[6:], values)
    return replace(record, name=back(record.name), rdata=data)
