"""Sessions of the console: signed, bounded in time, and over when the token changes."""

from __future__ import annotations

import time

import pytest
from aiohttp import web

from gateway.admin.auth import ADMIN_TOKEN, READ_TOKEN
from gateway.admin.console import sessions

TOKEN, READING = "a" * 32, "b" * 32


def app(token: str = TOKEN, reading: str = READING) -> web.Application:
    made = web.Application()
    made[ADMIN_TOKEN], made[READ_TOKEN] = token, reading
    return made


def begun(token: str = TOKEN, name: str = "anna") -> tuple[sessions.ConsoleSession, str]:
    found = sessions.begin(app(), token, name)
    assert found
    return found


def test_each_token_begins_a_session_with_its_rights() -> None:
    writer, _ = begun(TOKEN)
    reader, _ = begun(READING)
    assert (writer.may_change, reader.may_change) == (True, False)
    assert writer.actor == "console: anna"
    assert begun(name="")[0].actor == "console"


@pytest.mark.parametrize("token", ["", "a", "a" * 31, "A" * 32, "c" * 32, "é" * 32, "\udcff" * 32])
def test_no_other_token_begins_one(token: str) -> None:
    assert sessions.begin(app(), token, "") is None
    assert sessions.begin(app(reading=""), token, "") is None


def test_every_gateway_of_the_installation_takes_a_cookie() -> None:
    session, cookie = begun()
    assert sessions.parse(app(), cookie) == session


def test_a_session_ends_with_its_token_alone() -> None:
    writer, reader = begun(TOKEN)[1], begun(READING)[1]
    changed = app(token="d" * 32)
    assert sessions.parse(changed, writer) is None
    assert sessions.parse(changed, reader)
    assert sessions.parse(app(reading=""), reader) is None


def test_a_session_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    session, cookie = begun()
    monkeypatch.setattr(time, "time", lambda: session.expires_at - 1)
    assert sessions.parse(app(), cookie)
    monkeypatch.setattr(time, "time", lambda: session.expires_at)
    assert sessions.parse(app(), cookie) is None


def test_no_altered_cookie_is_taken() -> None:
    reader = begun(READING)[1]
    assert sessions.parse(app(), reader.replace("ro|", "rw|", 1)) is None
    for place in range(len(reader)):
        other = "x" if reader[place] != "x" else "y"
        assert sessions.parse(app(), reader[:place] + other + reader[place + 1 :]) is None
    for junk in ("", "|", "rw|||||", "rw|1|2|3|", "\udcff", reader + "|"):
        assert sessions.parse(app(), junk) is None


def test_each_session_has_a_csrf_token_of_its_own() -> None:
    first, second = begun()[0], begun()[0]
    assert first.csrf_token != second.csrf_token
    assert first.csrf_token not in begun()[1]
