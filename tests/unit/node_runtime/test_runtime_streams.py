"""Log files in CRI format, capabilities, and the filter of a single id."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.node.runtime.privileges import choose_capabilities
from podwire.node.runtime.single_id import encode_filter
from podwire.node.runtime.streams import STDERR, STDOUT, CriLog

_LINE = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)$", re.DOTALL)


def joined(path: Path, stream: bytes) -> bytes:
    """Return what a reader of the log puts together again."""
    out = b""
    for line in path.read_bytes().split(b"\n")[:-1]:
        match = _LINE.match(line)
        assert match is not None
        if match[1] == stream:
            out += match[3] + (b"\n" if match[2] == b"F" else b"")
    return out


@given(chunks=st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=50)), max_size=20))
def test_nothing_is_lost_however_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    log = CriLog(path, 1 << 20, 5)
    for stream, chunk in chunks:
        log.write(stream, chunk)
    log.close()
    for stream, name in ((STDOUT, b"stdout"), (STDERR, b"stderr")):
        said = b"".join(c for s, c in chunks if s == stream)
        expected = said if not said or said.endswith(b"\n") else said + b"\n"
        assert joined(path, name) == expected


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    log = CriLog(tmp_path / "l", 1 << 20, 5)
    for _ in range(5):
        log.write(STDOUT, b"y" * 10_000)
    log.write(STDOUT, b"\n")
    log.close()
    tags = [line.split(b" ")[2] for line in (tmp_path / "l").read_bytes().splitlines()]
    assert tags == [b"P", b"P", b"P", b"F"]
    assert joined(tmp_path / "l", b"stdout") == b"y" * 50_000 + b"\n"


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "0.log"
    log = CriLog(path, 100, 3)
    for number in range(10):
        log.write(STDOUT, b"line %d\n" % number)
    log.close()
    files = [path.with_name(n) for n in ("0.log.2", "0.log.1", "0.log")]
    assert sorted(path.parent.iterdir()) == sorted(files)
    said = b"".join(joined(f, b"stdout") for f in files)
    assert said == b"".join(b"line %d\n" % n for n in range(4, 10))
    assert all(f.stat().st_size <= 100 for f in files)


def test_a_log_is_continued(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = CriLog(tmp_path / "l", 1000, 2)
        log.write(STDOUT, text)
        log.close()
    assert joined(tmp_path / "l", b"stdout") == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "has", "lacks"),
    [
        ((), (), False, {0, 10, 13}, {12, 21, 27}),
        (("NET_ADMIN",), (), False, {12, 13}, {21}),
        (("CAP_SYS_TIME",), ("all",), False, {25}, {0, 13}),
        ((), ("NET_RAW",), False, {0}, {13}),
        (("ALL",), ("SYS_ADMIN",), False, {0, 12, 25}, {21}),
    ],
)
def test_capabilities(
    add: tuple[str, ...], drop: tuple[str, ...], privileged: bool, has: set[int], lacks: set[int]
) -> None:
    kept = choose_capabilities(add, drop, privileged=privileged)
    assert kept is not None
    assert has <= kept
    assert not lacks & kept


def test_all_capabilities_and_unknown_ones() -> None:
    assert choose_capabilities((), ("ALL",), privileged=True) is None
    with pytest.raises(ValueError, match="unknown capability FLY"):
        choose_capabilities(("CAP_FLY",), (), privileged=False)


def run_filter(program: bytes, architecture: int, number: int) -> int:
    """Interpret the three BPF instructions that the filter uses."""
    steps = [struct.unpack("HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    words = {0: number, 4: architecture}
    place = accumulator = 0
    while True:
        code, yes, no, operand = steps[place]
        place += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            accumulator = words[operand]
        else:
            place += yes if accumulator == operand else no


def test_the_filter_answers_only_for_ids() -> None:
    program = encode_filter("x86_64")
    x86, arm = 0xC000003E, 0xC00000B7
    pretended = {n for n in range(600) if run_filter(program, x86, n) == 0x50000}
    assert pretended == {92, 93, 94, 105, 106, 113, 114, 116, 117, 119, 122, 123, 260}
    assert run_filter(program, arm, 105) == 0x7FFF0000
    assert run_filter(program, x86, 59) == 0x7FFF0000
    assert encode_filter("vax") == b""
