"""Each script says what it does in one fixed form, and its body keeps to its header."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import groupby

import pytest

SCRIPTS = {
    file.name: file.read_bytes()
    for file in (*files("lua").iterdir(), files("loadtest.bench.peers") / "one_grab.lua")
    if file.name.endswith(".lua")
}
LINES_MAX = 110
#: The parts in their order; a line that starts no part continues the one before it.
PARTS = {
    "guarantee": r"GUARANTEE: \S",
    "keys": r"KEYS\[(\d+)\] sk:\{sale\}:\w+(?::\{op\})? \((STRING|HASH|STREAM|ZSET|SET|LIST)\)$",
    "argv": r"ARGV\[(\d+)\] \w+\b",
    "returns": r'RETURNS \{"[A-Z]+"',
    "safe": r"SAFE BECAUSE \S",
}
ORDER = ["purpose", *PARTS]

pytestmark = pytest.mark.parametrize("name", sorted(SCRIPTS))


def text_of(name: str) -> str:
    return SCRIPTS[name].decode("ascii")


def header_of(name: str) -> list[str]:
    """Return the comment lines at the top, without their dashes."""
    lines = text_of(name).splitlines()
    return [line[3:] for line in lines[: next(i for i, s in enumerate(lines) if s[:2] != "--")]]


def body_of(name: str) -> str:
    """Return the code, without comments."""
    return re.sub(r"--.*", "", text_of(name))


def part_of(line: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if re.match(pattern, line)), None)


def indices(array: str, text: str) -> list[int]:
    return sorted({int(n) for n in re.findall(rf"\b{array}\[(\d+)\]", text)})


def test_is_short_ascii_text(name: str) -> None:
    assert SCRIPTS[name].isascii()
    assert len(SCRIPTS[name].splitlines()) <= LINES_MAX


def test_header_has_every_part_in_order(name: str) -> None:
    first, *lines = header_of(name)
    assert part_of(first) is None, "the first line is the purpose"
    assert re.match(r"[A-Z][a-z]+ .*[.:,]$", first)
    parts = ["purpose"] + [part for line in lines if (part := part_of(line))]
    assert [part for part, _ in groupby(parts)] == ORDER


def test_nothing_looks_like_a_part_without_being_one(name: str) -> None:
    marks = re.compile(r"KEYS\[|ARGV\[|RETURNS|GUARANTEE|SAFE BECAUSE")
    assert [line for line in header_of(name) if marks.match(line) and not part_of(line)] == []


@pytest.mark.parametrize("array", ["KEYS", "ARGV"])
def test_body_uses_exactly_what_the_header_declares(name: str, array: str) -> None:
    declared = [int(n) for n in re.findall(rf"^{array}\[(\d+)\]", "\n".join(header_of(name)), re.M)]
    assert declared == list(range(1, len(declared) + 1))
    assert declared
    assert indices(array, body_of(name)) == declared


@pytest.mark.parametrize("array", ["KEYS", "ARGV"])
def test_arrays_are_only_indexed_by_number(name: str, array: str) -> None:
    assert re.findall(rf"\b{array}\b(?!\[\d+\])", body_of(name)) == []


def test_every_outcome_word_is_declared(name: str) -> None:
    returned = set(re.findall(r'(?:return|reply =) \{"([A-Z]+)"', body_of(name)))
    declared = set(re.findall(r'\{"([A-Z]+)"', "\n".join(header_of(name))))
    assert returned == declared


def test_no_command_reads_the_whole_database(name: str) -> None:
    commands = set(re.findall(r'redis\.p?call\("(\w+)"', body_of(name)))
    assert commands
    assert not commands & {"KEYS", "SCAN", "HGETALL", "HKEYS", "SMEMBERS", "FLUSHALL", "FLUSHDB"}
