"""`seckill sale check`: what it finds ready, and what not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from seckill.sales import sales
from tests.processes import eventually


async def test_a_sale_with_all_that_it_needs_is_ready(processes, gateway, consumers, open_sale):
    sale = await open_sale(opens_at=datetime.now(UTC) + timedelta(hours=1))

    async def ready():
        code, out, errors = await processes.ask(
            "sale", "check", sale.sale_id, "--crowd", "1000000", "--json"
        )
        assert code in (0, 1), errors
        return json.loads(out) if code == 0 else None

    report = await eventually(ready, "all processes have reported")
    found = {check["name"]: check for check in report["checks"]}
    assert report["ready"] is True
    for name in ("sale", "stores", "clocks", "consumers", "certificate"):
        assert found[name]["status"] == "ok", found[name]
    # Both gateways are on one host, and a million buyers are too many for them.
    assert "one host" in found["gateways"]["said"]
    assert found["crowd"]["status"] == "warn"


async def test_a_closed_sale_is_not_ready_and_the_line_says_so(
    processes, gateway, open_sale, db, stock
):
    sale = await open_sale()
    await sales.close(db, stock, sale.sale_id)
    code, out, _ = await processes.ask("sale", "check", sale.sale_id)
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split(maxsplit=2) == ["fail", "sale", "it is closed"]
    assert lines[-1].startswith("not ready")
