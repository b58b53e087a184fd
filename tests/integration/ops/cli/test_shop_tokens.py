"""`seckill shop-token` as typed, and what `seckill sale` leaves in the audit trail."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import partial

import pytest

from seckill.shop.tokens import FORM, ShopTokens
from tests.processes import Processes


@pytest.fixture
def command(settings, tmp_path):
    """Run `seckill …`; returns exit code, output and complaints."""
    return partial(Processes(settings, tmp_path).ask, COLUMNS="200")


async def test_a_token_is_printed_alone_and_once(command, db):
    create = partial(command, "shop-token", "create", "--name", "typed", "--scope", "money")
    code, out, err = await create()
    assert (code, bool(FORM.match(out.strip())), "only here" in err) == (0, True, True)
    assert (await ShopTokens(db).find(out.strip())).scopes == {"money"}
    code, out, err = await create()
    assert (code, out, err.count("\n"), "typed-2" in err) == (2, "", 1, True)
    assert (await command("shop-token", "revoke", "typed"))[0] == 0
    code, out, _ = await command("shop-token", "list", "--json")
    assert json.loads(out)[0]["expires_at"] is None
    (listed,) = [each for each in json.loads(out) if each["name"] == "typed"]
    assert (code, listed["scopes"], bool(listed["revoked_at"])) == (0, ["money"], True)


async def test_a_token_with_an_end_is_listed_with_it(command):
    create = partial(command, "shop-token", "create", "--scope", "money", "--expires-in")
    assert (await create("90d", "--name", "for-a-while"))[0] == 0
    _, out, _ = await command("shop-token", "list", "--json")
    (listed,) = [each for each in json.loads(out) if each["name"] == "for-a-while"]
    made, ends = (datetime.fromisoformat(listed[at]) for at in ("created_at", "expires_at"))
    assert (ends - made, listed["is_over"]) == (timedelta(days=90), False)
    code, out, err = await create("soon", "--name", "typo")
    assert (code, out, err.count("\n"), "such as 90d" in err) == (2, "", 1, True)


async def test_changes_of_a_sale_are_in_the_audit_trail(command, open_sale, db):
    sale = await open_sale()
    for verb in ("pause", "close"):
        assert (await command("sale", verb, sale.sale_id))[0] == 0
    rows = await db.fetch(
        "SELECT reason FROM audit WHERE sale_id = $1 AND action = 'sale.state' ORDER BY audit_id",
        sale.sale_id,
    )
    assert [row[0] for row in rows] == ["open -> paused", "paused -> closed"]
