"""Tokens of the shop's programs: made, found, revoked, and unknown while the store is away."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from seckill.errors import Missing, Unavailable, UserMistake, WrongState
from seckill.shop import tokens
from seckill.shop.tokens import Scope, ShopTokens

_numbers = itertools.count()


@pytest.fixture
def name():
    return f"program-{next(_numbers)}"


class FrozenDatabase:
    async def fetch(self, *_):
        raise TimeoutError


async def test_a_token_is_known_by_its_digest_alone(db, name):
    token = await tokens.create(db, name, [Scope.MONEY, Scope.SALES], by="ann")
    assert token.startswith(tokens.PREFIX)
    row = await db.fetchrow("SELECT * FROM shop_tokens WHERE name = $1", name)
    assert token[-48:] not in str(dict(row))
    found = await ShopTokens(db).find(token)
    assert (found.name, found.scopes) == (name, {"money", "sales"})
    audited = await db.fetchrow("SELECT * FROM audit WHERE reason = $1", name)
    assert (audited["action"], audited["actor"]) == ("shop_token.create", "ann")


async def test_a_wrong_token_is_no_token(db, name):
    token = await tokens.create(db, name, [Scope.MONEY], by="ann")
    known = ShopTokens(db)
    last = "1" if token[-1] == "0" else "0"
    for wrong in ("", "x", token[:-1], token + "0", token[:-1] + last, token.upper()):
        assert await known.find(wrong) is None


async def test_a_token_made_after_the_last_reading_is_found(db, name):
    known = ShopTokens(db)
    assert await known.find(tokens.PREFIX + "0" * 48) is None
    assert await known.find(await tokens.create(db, name, [Scope.MONEY], by="ann"))


async def test_a_revoked_token_is_refused_within_seconds_and_its_name_stays_taken(
    db, name, eventually
):
    token = await tokens.create(db, name, [Scope.MONEY], by="ann")
    known = ShopTokens(db)
    assert await known.find(token)
    assert await tokens.revoke(db, name, by="ben")
    assert not await tokens.revoke(db, name, by="ben")

    async def is_refused():
        return await known.find(token) is None

    await eventually(is_refused, "the token to be refused")
    with pytest.raises(WrongState, match=f"{name}-2"):
        await tokens.create(db, name, [Scope.MONEY], by="ann")
    (listed,) = [each for each in await tokens.list_(db) if each.name == name]
    assert listed.revoked_at


async def test_a_token_ends_at_its_moment_by_the_clock_of_the_store(db, name, eventually):
    token = await tokens.create(db, name, [Scope.MONEY], by="ann", expires_in=timedelta(days=1))
    known = ShopTokens(db)
    found = await known.find(token)
    assert (found.is_over, found.expires_at.tzinfo is not None) == (False, True)
    await db.execute("UPDATE shop_tokens SET expires_at = now() WHERE name = $1", name)

    async def is_over():
        return (await known.find(token)).is_over

    await eventually(is_over, "the end of the token to be read")
    (listed,) = [each for each in await tokens.list_(db) if each.name == name]
    assert (listed.is_over, listed.revoked_at) == (True, None)
    # A revoked one is not good, whether it is over or not.
    assert await tokens.revoke(db, name, by="ann")
    assert await ShopTokens(db).find(token) is None


async def test_a_token_ends_while_its_row_is_kept(db, name, monkeypatch, eventually):
    lasts = timedelta(seconds=1)
    token = await tokens.create(db, name, [Scope.MONEY], by="ann", expires_in=lasts)
    monkeypatch.setattr(tokens, "FRESH_S", 60)
    known = ShopTokens(db)
    assert await known.find(token)
    monkeypatch.setattr(known, "_db", FrozenDatabase())

    async def is_over():
        return (await known.find(token)).is_over

    await eventually(is_over, "the token to end without a look at the store")


async def test_ended_tokens_leave_room_for_good_ones(db, name, monkeypatch):
    await tokens.create(db, f"{name}-old", [Scope.MONEY], by="ann", expires_in=timedelta(1))
    await db.execute("UPDATE shop_tokens SET expires_at = now() WHERE name = $1", f"{name}-old")
    good = await db.fetchval(
        "SELECT count(*) FROM shop_tokens WHERE revoked_at IS NULL"
        " AND coalesce(expires_at, 'infinity') > now()"
    )
    monkeypatch.setattr(tokens, "TOKENS_MAX", good + 1)
    monkeypatch.setattr(tokens, "KNOWN_MAX", good + 1)
    token = await tokens.create(db, name, [Scope.MONEY], by="ann")
    assert (await ShopTokens(db).find(token)).name == name


@pytest.mark.parametrize("days", [0, -1, 3651])
async def test_an_impossible_end_is_refused(db, name, days):
    with pytest.raises(UserMistake, match="at most 3650 days"):
        await tokens.create(db, name, [Scope.MONEY], by="ann", expires_in=timedelta(days=days))


async def test_while_the_store_is_away_a_token_is_neither_good_nor_bad(db, name, monkeypatch):
    token = await tokens.create(db, name, [Scope.MONEY], by="ann")
    with pytest.raises(Unavailable):
        await ShopTokens(FrozenDatabase()).find(token)
    known = ShopTokens(db)
    await known.find(token)
    monkeypatch.setattr(known, "_db", FrozenDatabase())
    assert await known.find(token)  # for the moment that a reading is good
    monkeypatch.setattr(tokens, "FRESH_S", 0)
    with pytest.raises(Unavailable):
        await known.find(token)


@pytest.mark.parametrize(
    ("name", "scopes", "said"),
    [
        ("", ["money"], "name ''"),
        ("a b", ["money"], "name 'a b'"),
        ("a", [], "no scope"),
        ("a", ["money", "all"], "scope 'all': give at least one of orders:read"),
    ],
)
async def test_impossible_tokens_are_refused_in_words(db, name, scopes, said):
    with pytest.raises(UserMistake, match=said):
        await tokens.create(db, name, scopes, by="ann")


async def test_revoking_what_never_was_says_so(db):
    with pytest.raises(Missing, match="shop-token list"):
        await tokens.revoke(db, "never-was", by="ann")
