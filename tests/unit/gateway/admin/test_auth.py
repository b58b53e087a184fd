"""The admin token: every byte of it counts, and the comparison takes the same time for all."""

from __future__ import annotations

import hmac

import pytest

from gateway.admin import auth
from gateway.admin.auth import is_token
from gateway.http.refusals import REFUSALS
from seckill import errors

TOKEN = "0123456789abcdef" * 2
GOOD = f"Bearer {TOKEN}"


@pytest.mark.parametrize("header", [GOOD, f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
def test_the_token_is_taken(header: str) -> None:
    assert is_token(TOKEN, header)


def test_any_altered_byte_is_refused() -> None:
    for place, byte in enumerate(GOOD):
        for other in map(chr, range(256)):
            altered = f"{GOOD[:place]}{other}{GOOD[place + 1 :]}"
            # The scheme's case means nothing.
            if other != byte and altered.lower() != GOOD.lower():
                assert not is_token(TOKEN, altered), (place, other)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer{TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}0",
        f"Bearer {TOKEN}\u00a0",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \udcff\udc80" + TOKEN[2:],  # what aiohttp makes of bytes that are not UTF-8
        "Bearer " + "é" * 32,
    ],
    ids=ascii,
)
def test_anything_else_is_refused(header: str) -> None:
    assert not is_token(TOKEN, header)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert auth.compare_digest is hmac.compare_digest
    compared = []
    monkeypatch.setattr(auth, "compare_digest", lambda *pair: compared.append(pair))
    is_token(TOKEN, "Bearer wrong")
    is_token(TOKEN, "Basic wrong")
    assert compared == [(b"wrong", TOKEN.encode())] * 2


def test_every_error_has_a_meaning_for_an_operator() -> None:
    """The first that fits counts: a general one before a special one would hide it."""
    kinds = list(REFUSALS)
    assert {errors.UserMistake, errors.Conflict, errors.Unavailable} <= set(kinds)
    for place, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[place + 1 :])
