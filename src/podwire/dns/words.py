"""The Corefile's words, lines and blocks, each with its place; and the values that words can be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from podwire.model.errors import BadInput, Problem


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


def wrong(source: str, word: Word, why: str) -> BadInput:
    return BadInput(Problem(source, f"line {word.line}, column {word.column}", why))


def read_lines(text: str, source: str) -> list[tuple[Word, ...]]:
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
                    raise wrong(source, Word("", number, at + 1), "the quotation has no end")
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


Block = tuple[tuple[Word, ...], list[Directive]]


def server_blocks(lines: Sequence[tuple[Word, ...]], source: str) -> list[Block]:
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line[-1].text != "{" or len(line) < 2:
            raise wrong(source, line[-1], "expected a server block: ZONE:PORT {")
        directives: list[Directive] = []
        at += 1
        while True:
            if at >= len(lines):
                raise wrong(source, line[-1], "this block has no closing }")
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
        raise wrong(source, lines[start][0], "expected a directive before {")
    at = start + 1
    while at < len(lines) and lines[at][0].text != "}":
        if lines[at][-1].text == "{":
            raise wrong(source, lines[at][-1], "a block inside this block is not expected")
        at += 1
    if at >= len(lines):
        raise wrong(source, lines[start][-1], "this block has no closing }")
    return tuple(lines[start + 1 : at]), at + 1


# --- values


def seconds(word: Word, source: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit in ("ms", "s", "m", "h"):
        number = word.text.removesuffix(unit)
        if number != word.text and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    raise wrong(source, word, f"{word.text!r} is not a duration such as 5s")


def integer(word: Word, source: str, low: int, high: int) -> int:
    if not word.text.isdigit() or not low <= int(word.text) <= high:
        raise wrong(source, word, f"{word.text!r}: a number from {low} to {high} is expected")
    return int(word.text)


def argument(line: Sequence[Word], source: str) -> Word:
    if len(line) != 2:
        raise wrong(source, line[0], f"{line[0].text!r} takes one value")
    return line[1]


def refuse_block(directive: Directive, source: str) -> None:
    if directive.block:
        raise wrong(source, directive.block[0][0], f"{directive.words[0].text!r} takes no block")


def refuse_words(directive: Directive, source: str) -> None:
    refuse_block(directive, source)
    if len(directive.words) > 1:
        raise wrong(source, directive.words[1], f"{directive.words[0].text!r} takes no value")
