"""Logins by the keys of a login service: read, rotated, away and damaged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
import pytest
from aiohttp import web

from gateway.http import key_source, logins
from gateway.http.key_source import KeySource
from gateway.http.logins import Logins
from gateway.http.problems import Problem, Refused
from seckill.auth.key_ring import KeyRing
from seckill.auth.login_checks import LoginRules
from seckill.auth.login_keys import shared_keys
from tests.login_service import KINDS, LoginService, login_service
from tests.processes import eventually

RING = KeyRing("k1", {"k1": b"a" * 64})
#: No reading comes by itself within a test.
NEVER_S = 3600.0


@pytest.fixture
async def service() -> AsyncIterator[LoginService]:
    async with login_service(*KINDS) as running:
        await running.start()
        yield running


@asynccontextmanager
async def checking(
    service: LoginService, *, refresh_s: float = NEVER_S, own: bool = False
) -> AsyncIterator[Logins]:
    checks = Logins(shared_keys(RING) if own else [], LoginRules())
    async with KeySource.open(service.url, refresh_s=refresh_s, on_keys=checks.use) as source:
        checks.source = source
        yield checks


def token_of(login: dict[str, str]) -> str:
    return login["Authorization"].removeprefix("Bearer ")


async def refusal_of(checks: Logins, token: str) -> Refused:
    with pytest.raises(Refused) as refused:
        await checks.buyer_of(token)
    return refused.value


@pytest.mark.parametrize("algorithm", KINDS)
async def test_a_login_by_a_published_key_is_good(service, algorithm: str) -> None:
    async with checking(service) as checks:
        token = token_of(service.login("ann", algorithm))
        for _ in range(3):
            assert await checks.buyer_of(token) == "ann"
    assert service.reads == 1


async def test_a_good_token_is_checked_once_and_never_believed_longer_than_it_says(
    service, monkeypatch
) -> None:
    async with checking(service) as checks:
        token = token_of(service.login("ann", "ES256"))
        assert await checks.buyer_of(token) == "ann"
        really, now = logins.check, time.time()
        monkeypatch.setattr(logins, "check", None)  # not to be called
        assert await checks.buyer_of(token) == "ann"
        monkeypatch.setattr(logins, "check", really)
        monkeypatch.setattr(time, "time", lambda: now + 3700)
        checked = []
        monkeypatch.setattr(logins, "check", lambda *call: checked.append(call) or really(*call))
        await checks.buyer_of(token)  # PyJWT has a clock of its own
        assert len(checked) == 1


async def test_the_tokens_remembered_are_bounded(service, monkeypatch) -> None:
    monkeypatch.setattr(logins, "GOOD_MAX", 3)
    async with checking(service) as checks:
        for number in range(5):
            assert await checks.buyer_of(token_of(service.login(number, "ES256"))) == str(number)
        assert len(checks._good) == 3


async def test_an_unknown_key_causes_one_reading_whoever_asks(service, monkeypatch) -> None:
    async with checking(service) as checks:
        monkeypatch.setattr(key_source, "UNKNOWN_S", 0.0)
        service.add("next", "ES256")
        token = token_of(service.login("ann", "next"))
        assert await asyncio.gather(*(checks.buyer_of(token) for _ in range(50))) == ["ann"] * 50
        assert service.reads == 2


async def test_made_up_keys_cause_no_reading_each(service) -> None:
    async with checking(service) as checks:
        service.add("never", "ES256")
        private = service.keys.pop("never")[1]
        for number in range(50):
            token = jwt.encode({"sub": "ann"}, private, "ES256", {"kid": f"k{number}"})
            refused = await refusal_of(checks, token)
            assert refused.problem is Problem.UNAUTHORIZED
            assert "SECKILL_JWKS_URL" in refused.detail
        assert service.reads == 1


async def test_a_withdrawn_key_ends_the_logins_that_it_signed(service) -> None:
    async with checking(service, refresh_s=0.05) as checks:
        token = token_of(service.login("ann", "ES256"))
        assert await checks.buyer_of(token) == "ann"
        service.keys["other"] = service.keys.pop("ES256")

        async def is_refused() -> bool:
            try:
                await checks.buyer_of(token)
            except Refused as refused:
                return refused.problem is Problem.UNAUTHORIZED
            return False

        await eventually(is_refused, "the login is refused")


async def test_the_last_keys_are_used_while_the_address_is_away(service) -> None:
    async with checking(service, refresh_s=0.05) as checks:
        assert checks.flaw == ""
        await service.stop()

        async def is_noted() -> bool:
            return bool(checks.flaw)

        await eventually(is_noted, "the flaw is noted")
        assert await checks.buyer_of(token_of(service.login("ann", "RS256"))) == "ann"
        service.add("next", "RS256")
        refused = await refusal_of(checks, token_of(service.login("ann", "next")))
        assert refused.problem is Problem.UNAVAILABLE, "nobody can say that it is no key"
        await service.start()

        async def is_well() -> bool:
            return not checks.flaw

        await eventually(is_well, "the keys are read again", within_s=30)
        assert await checks.buyer_of(token_of(service.login("ann", "next"))) == "ann"


async def test_a_gateway_that_starts_while_the_address_is_away_asks_to_come_again() -> None:
    async with login_service("ES256") as service, checking(service, own=True) as checks:
        refused = await refusal_of(checks, token_of(service.login("ann", "ES256")))
        assert refused.problem is Problem.UNAVAILABLE
        assert "cannot be read" in checks.flaw
        shared = jwt.encode(
            {"sub": "bob", "exp": int(time.time()) + 60}, RING.keys["k1"], headers={"kid": "k1"}
        )
        assert await checks.buyer_of(shared) == "bob", "our own keys do not need it"
        await service.start()

        async def is_good() -> bool:
            return not checks.flaw

        await eventually(is_good, "the keys are read", within_s=30)
        assert await checks.buyer_of(token_of(service.login("ann", "ES256"))) == "ann"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: web.Response(status=500), "answers 500"),
        (lambda: web.Response(status=302, headers={"Location": "/jwks"}), "answers 302"),
        (lambda: web.Response(text="<html>"), "no JSON Web Key Set"),
        (lambda: web.json_response({"keys": []}), "no key for logins"),
        (lambda: web.Response(body=b" " * 70_000), "larger than 64 KiB"),
    ],
)
async def test_an_answer_without_keys_is_a_flaw_and_the_last_keys_stay(
    service, answer, words: str
) -> None:
    async with checking(service, refresh_s=0.05) as checks:
        service.answer = answer()

        async def is_noted() -> bool:
            return words in checks.flaw

        await eventually(is_noted, f"the flaw says {words}")
        assert await checks.buyer_of(token_of(service.login("ann", "ES256"))) == "ann"


async def test_a_shared_secret_is_no_way_in_where_none_is_set(service) -> None:
    async with checking(service) as checks:
        token = jwt.encode({"sub": "ann"}, "a" * 64, headers={"kid": "RS256"})
        refused = await refusal_of(checks, token)
        assert refused.problem is Problem.UNAUTHORIZED
        assert "ES256 or EdDSA or RS256" in refused.detail
    assert service.reads == 1


async def test_a_public_key_is_no_way_in_where_only_secrets_are_set() -> None:
    async with login_service("RS256") as service:
        checks = Logins(shared_keys(RING), LoginRules())
        refused = await refusal_of(checks, token_of(service.login("ann", "RS256")))
        assert refused.problem is Problem.UNAUTHORIZED
        assert "not signed with HS256" in refused.detail


async def test_a_reason_is_logged_once_in_a_while(service, caplog) -> None:
    async with checking(service) as checks:
        for _ in range(5):
            await refusal_of(checks, token_of(service.login("ann", "ES256", exp=1)))
    assert [record.message for record in caplog.records if "refused" in record.message] == [
        "a login is refused: the login token has expired (exp)"
    ]
