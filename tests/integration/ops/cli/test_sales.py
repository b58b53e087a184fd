"""`seckill sale` as an operator types it, against the real stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial

import pytest

from seckill import audit
from seckill.sales import sales
from tests.processes import Processes


@pytest.fixture
def sale_command(settings, tmp_path):
    """Run `seckill sale …`; returns exit code, output and complaints."""
    return partial(Processes(settings, tmp_path).ask, "sale", COLUMNS="200")


async def test_the_list_says_what_became_of_the_units(sale_command, shop, open_sale, db, stock):
    sale = await open_sale(stock=5)
    await shop.order(sale, "ann", "bob")
    await db.execute("UPDATE inventory SET frozen = 1, sold = 1 WHERE sale_id = $1", sale.sale_id)
    over = await open_sale()
    await db.execute("UPDATE sales SET closes_at = now() WHERE sale_id = $1", over.sale_id)

    code, out, _ = await sale_command("list", "--json", "--limit", 2)
    newest, older = json.loads(out)
    assert (code, newest["sale_id"], older["sale_id"]) == (0, over.sale_id, sale.sale_id)
    assert [older[name] for name in ("total", "sold", "held", "left")] == [5, 1, 1, 3]
    code, out, _ = await sale_command("list", "--limit", 1)
    assert (code, "its time is over" in out, "older sales are left out" in out) == (0, True, True)
    code, out, _ = await sale_command("show", sale.sale_id)
    assert (code, "sold 1, held 1, left 3" in out) == (0, True)


async def test_a_mistyped_sale_is_changed_or_removed(sale_command, db):
    create = partial(sale_command, "create", "--stock", 1, "--price-cents")
    assert (await create(100, "typo", "--closes-at", "2099-01-01T20:00"))[0] == 0
    code, out, _ = await sale_command("edit", "typo", "--price-cents", 1000, "--closes-at", "never")
    assert (code, "at 10.00" in out, "closes" in out) == (0, True, False)
    assert (await sale_command("delete", "typo"))[0] == 0
    code, _, err = await sale_command("edit", "typo", "--stock", 2)
    assert (code, "there is no sale typo" in err, err.count("\n")) == (2, True, 1)
    assert not await db.fetchval("SELECT count(*) FROM inventory WHERE sale_id = 'typo'")
    trail = "SELECT actor, action FROM audit WHERE sale_id = 'typo' ORDER BY audit_id"
    rows = await db.fetch(trail)
    actions = ("sale.create", "sale.edit", "sale.delete")
    assert [tuple(row) for row in rows] == [(audit.operator_name(), each) for each in actions]


async def test_times_that_are_over_are_refused_with_the_words_to_type(sale_command):
    create = partial(sale_command, "create", "over", "--stock", 1, "--price-cents", 1)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for options, words in (
        (("--closes-at", today), f"--closes-at {today}T23:59:59"),
        (("--closes-at", "2020-01-01T20:00"), "is over"),
        (("--opens-at", "2020-01-01T20:00"), "is over"),
        (("--opens-at", "2099-01-02", "--closes-at", "2099-01-01"), "must close after it opens"),
        (("--opens-at", "soon"), "give an ISO time"),
    ):
        code, _, err = await create(*options)
        assert (code, words in err, err.count("\n")) == (2, True, 1), err


async def test_archived_sales_are_listed_on_demand_and_others_are_named(
    sale_command, open_sale, db, stock
):
    sale, running = await open_sale(), await open_sale()
    await sales.close(db, stock, sale.sale_id)
    code, out, err = await sale_command("archive", sale.sale_id, running.sale_id)
    assert (code, f"sale {sale.sale_id}: archived" in out) == (1, True)
    assert (f"sale {running.sale_id} is open; close it first" in err, err.count("\n")) == (True, 1)
    for options, listed in (((), False), (("--all",), True)):
        _, out, _ = await sale_command("list", "--json", *options)
        assert (sale.sale_id in [each["sale_id"] for each in json.loads(out)]) is listed
    code, out, _ = await sale_command("show", sale.sale_id)
    assert (code, "archived" in out) == (0, True)
