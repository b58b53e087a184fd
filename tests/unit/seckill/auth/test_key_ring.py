"""Key rings: what cannot be used is refused at start, naming the setting and no secret."""

from __future__ import annotations

import pytest

from seckill.auth.key_ring import SECRET_MIN, KeyRing, parse_all
from seckill.errors import UserMistake

SECRET = "correct-horse-battery-staple-0123"


def parse(text: str) -> KeyRing:
    return KeyRing.parse(text, setting="SECKILL_TICKET_KEYS")


def test_the_first_key_signs_and_all_are_kept() -> None:
    ring = parse(f"new:{'n' * SECRET_MIN},old:{'o' * SECRET_MIN}")
    assert ring == KeyRing("new", {"new": b"n" * SECRET_MIN, "old": b"o" * SECRET_MIN})


def test_a_secret_may_contain_colons() -> None:
    assert parse(f"k:a:{SECRET}").keys == {"k": f"a:{SECRET}".encode()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        f":{SECRET}",
        f"k-1:{SECRET}",
        f"ü:{SECRET}",
        f"k:{SECRET},k:{SECRET}",
        f"k:{'x' * (SECRET_MIN - 1)}",
        f"a:{SECRET}, b:{SECRET}",
    ],
)
def test_an_unusable_ring_names_its_setting(text: str) -> None:
    with pytest.raises(UserMistake, match="SECKILL_TICKET_KEYS"):
        parse(text)


@pytest.mark.parametrize("text", ["s3cr3t" * 8, "k:s3cr3t", f"k:{SECRET},{'s3cr3t' * 8}"])
def test_an_error_never_shows_a_secret(text: str) -> None:
    """Forgetting "kid:" must not print the secret on a terminal or into a log."""
    with pytest.raises(UserMistake) as caught:
        parse(text)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", [f"k:{SECRET}\n", f"k:{SECRET}\r\n", f" k:{SECRET} ,\n"])
def test_white_space_around_a_key_is_no_part_of_it(text: str) -> None:
    """A file of secrets ends with a line feed."""
    assert parse(text).keys == {"k": SECRET.encode()}


def test_keys_that_a_mac_cannot_tell_apart_are_refused() -> None:
    alike = "x" * 64
    with pytest.raises(UserMistake, match="same 64 bytes"):
        parse(f"a:{alike}1,b:{alike}2")


@pytest.mark.parametrize(
    "text", [f"k: {SECRET}", f"k:{SECRET}\u00a0x", f"k:{SECRET[:20]}\n{SECRET}"]
)
def test_white_space_in_a_key_is_refused(text: str) -> None:
    with pytest.raises(UserMistake, match="white space"):
        parse(text)


def test_the_flaws_of_several_rings_are_named_at_once() -> None:
    with pytest.raises(UserMistake, match=r"SECKILL_A: .*; SECKILL_C is not set"):
        parse_all({"a": "k:short", "b": f"k:{SECRET}", "c": ""})


def test_a_key_that_two_rings_have_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    parse_all({"a": f"k:{SECRET}", "b": f"old:{SECRET[::-1]}x,new:{SECRET}", "c": f"k:{SECRET}x"})
    assert [record.getMessage() for record in caplog.records] == [
        "SECKILL_A and SECKILL_B have a key in common: give each its own"
    ]
