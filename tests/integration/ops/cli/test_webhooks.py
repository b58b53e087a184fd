"""`seckill webhook`, as typed."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from typer.testing import CliRunner

from ops.cli.webhooks import webhook_app
from seckill import audit
from seckill.errors import UserMistake
from tests.webhook_receiver import Receiver, documented_check
from tests.webhooks import WebhookBench


@pytest.fixture
async def bench(db):
    bench = WebhookBench(db)
    await bench.clear()
    yield bench
    await bench.clear()


@pytest.fixture
def webhook(settings, monkeypatch):
    """Run `seckill webhook` within this process; return its exit code, output and mistake."""
    for name in ("redis_url", "amqp_url", "postgres_dsn"):
        monkeypatch.setenv(f"SECKILL_{name.upper()}", getattr(settings, name))
    monkeypatch.setenv("SECKILL_WEBHOOK_PRIVATE", "true")
    monkeypatch.setenv("COLUMNS", "250")

    async def run(*words):
        ran = await asyncio.to_thread(CliRunner().invoke, webhook_app, [*map(str, words)])
        if ran.exception is None or isinstance(ran.exception, SystemExit):
            return ran.exit_code, ran.output, ""
        assert isinstance(ran.exception, UserMistake), ran.exception
        return 2, ran.output, str(ran.exception)

    return run


async def test_an_endpoint_from_its_first_day_to_its_last(bench, webhook, db):
    async with Receiver() as shop:
        code, out, _ = await webhook("add", shop.url, "--event", "order.*", "--json")
        made = json.loads(out)
        assert (code, made["events"]) == (0, ["order.*"])
        id_, secret = made["webhook"], made["secret"]

        code, out, _ = await webhook("test", id_)
        assert (code, out) == (0, "200: thanks\n")
        (request,) = shop.requests
        assert request.body["topic"] == "webhook.test"
        assert documented_check()(secret, request.headers, request.raw)
        shop.answers = [web.Response(status=404, text="no such page")]
        assert (await webhook("test", id_))[:2] == (1, "404: no such page\n")

    code, out, _ = await webhook("test", id_)
    assert code == 1
    assert "Connect call failed" in out

    code, out, _ = await webhook("rotate", id_, "--json")
    rotated = json.loads(out)
    assert rotated["old_secret"] == secret != rotated["secret"]
    code, out, _ = await webhook("show", id_)
    assert (code, rotated["secret"] in out) == (0, False)
    assert rotated["secret"] in (await webhook("show", id_, "--secret"))[1]

    await bench.queue()
    await db.execute("UPDATE webhook_deliveries SET state = 'dead', last_words = 'no route'")
    _, out, _ = await webhook("deliveries", "--dead", "--json")
    (dead,) = json.loads(out)
    assert (dead["topic"], dead["state"], dead["last_words"]) == ("order.paid", "dead", "no route")
    assert "1 deliveries" in (await webhook("replay", dead["delivery_id"]))[1]
    assert "no route" in (await webhook("deliveries"))[1]

    assert (await webhook("disable", id_, "--reason", "moves"))[0] == 0
    assert "disabled: moves" in (await webhook("list"))[1]
    code, _, err = await webhook("remove", id_)
    assert (code, "--drop" in err) == (2, True)
    assert (await webhook("remove", id_, "--drop"))[0] == 0
    assert json.loads((await webhook("list", "--json"))[1]) == []
    rows = await audit.newest(db, 5)
    actions = [row.action.removeprefix("webhook.") for row in rows]
    assert actions == ["remove", "disable", "replay", "rotate", "add"]
    assert not any("whsec_" in row.details for row in rows)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["add", "https://127.0.0.1/"], "no public address"),
        (["add", "https://shop.example/", "--event", "order.eaten"], "no event order.eaten"),
        (["test", "7"], "there is no webhook 7"),
        (["replay"], "give the numbers"),
        (["replay", "5"], "there is no delivery 5"),
        (["replay", "--webhook", "7", "--since", "noon"], "ISO time"),
        (["change", "7"], "give --url"),
    ],
)
async def test_a_mistake_is_one_line(bench, webhook, words, why, monkeypatch):
    monkeypatch.delenv("SECKILL_WEBHOOK_PRIVATE")
    code, out, err = await webhook(*words)
    assert (code, out) == (2, "")
    assert why in err
    assert len(err.splitlines()) == 1
