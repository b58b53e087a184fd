"""ack_outbox.lua: confirmed entries leave the outbox, and nothing else changes."""

from __future__ import annotations

from seckill.inventory.reservations import CALL_MAX
from tests.lua.shop import Shop, buyers


async def test_only_the_named_entries_go(shop: Shop) -> None:
    await shop.open(5)
    ids = [(await shop.grab(name)).outbox_id for name in ("ann", "bob", "cid")]
    await shop.scripts.ack_outbox(shop.sale_id, [ids[0], ids[2]])
    assert buyers(await shop.outbox()) == [["bob"]]
    await shop.assert_conserved(5)


async def test_naming_an_entry_twice_or_again_is_harmless(shop: Shop) -> None:
    await shop.open(5)
    ids = [(await shop.grab(name)).outbox_id for name in ("ann", "bob")]
    await shop.scripts.ack_outbox(shop.sale_id, [ids[0], ids[0]])
    before = await shop.dump()
    await shop.scripts.ack_outbox(shop.sale_id, [ids[0]])
    assert await shop.dump() == before
    assert buyers(await shop.outbox()) == [["bob"]]


async def test_an_unknown_outbox_is_not_made(shop: Shop) -> None:
    await shop.scripts.ack_outbox(shop.sale_id, ["1-0"])
    assert await shop.dump() == {}


async def test_a_full_call_is_dropped(shop: Shop) -> None:
    await shop.open(CALL_MAX)
    ids = [(await shop.grab(f"b{n}")).outbox_id for n in range(CALL_MAX)]
    await shop.scripts.ack_outbox(shop.sale_id, ids)
    assert await shop.outbox() == []
