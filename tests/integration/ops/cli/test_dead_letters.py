"""`seckill dead` as an operator types it, against the real stores."""

from __future__ import annotations

import base64
import json
from functools import partial

import pytest

from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from tests.processes import Processes


@pytest.fixture
def dead(settings, tmp_path, queues):
    """Run `seckill dead …`; returns exit code, output and complaints."""
    return partial(Processes(settings, tmp_path).ask, "dead", COLUMNS="200")


@pytest.fixture
async def letter(open_sale, shop, letters):
    """A letter that names the grab of ann."""
    sale = await open_sale()
    (ann,) = await shop.grab(sale, "ann")
    return await letters.naming(ann)


async def test_list_and_show(dead, letter, letters):
    await letters.arrive(b"\xc1", {"x-reason": "[red]unreadable[/red]"}, queue=ORDERS_EXPIRE)

    code, out, _ = await dead("list")
    assert (code, "[red]unreadable[/red]" in out, "2 dead letters" in out) == (0, True, True)
    code, out, _ = await dead("list", "--json", "--queue", "orders.place.dead")
    (shown,) = json.loads(out)
    assert (shown["letter_id"], shown["reason"]) == (letter.letter_id, "test")
    assert "body" not in shown
    code, out, _ = await dead("list", "--limit", 1)
    assert (ORDERS_EXPIRE in out, "2 dead letters, 1 older" in out) == (True, True)

    code, out, _ = await dead("show", letter.letter_id)
    (order,) = letter.orders
    assert (code, order.order_id in out, "ann: 1" in out, '"grabs"' in out) == (0, *[True] * 3)
    code, out, _ = await dead("show", letter.letter_id, "--json")
    shown = json.loads(out)
    assert base64.b64decode(shown["body"]) == letter.body
    assert shown["content"]["sale"] == letter.sale_id
    assert shown["orders"] == [
        {
            "order_id": order.order_id,
            "buyer_id": "ann",
            "quantity": 1,
            "row": None,
            "holder": {"buyer_id": "ann", "quantity": 1},
        }
    ]


async def test_show_without_redis_says_so_and_shows_the_rest(dead, letter):
    code, out, err = await dead("show", letter.letter_id, SECKILL_REDIS_URL="redis://127.0.0.1:1/0")
    assert (code, letter.orders[0].order_id in out) == (0, True)
    assert err.startswith("seckill: holders are not known: Redis does not answer")


async def test_export_has_every_body(dead, letter, letters, tmp_path):
    await letters.arrive(b"\xc1", queue=ORDERS_EXPIRE)
    file = tmp_path / "letters.jsonl"

    code, out, err = await dead("export", "--out", file)

    assert (code, out, err) == (0, "", "seckill: 2 dead letters written\n")
    place, timer = map(json.loads, file.read_text().splitlines())
    assert place["content"]["grabs"] == [[letter.orders[0].order_id, "ann", 1]]
    assert (timer["content"], base64.b64decode(timer["body"])) == (None, b"\xc1")
    code, out, _ = await dead("export", letter.letter_id)
    assert [json.loads(line)["letter_id"] for line in out.splitlines()] == [letter.letter_id]


async def test_replay_is_bounded_and_says_what_is_left(dead, letters, queues):
    for number in range(5):
        await letters.arrive(b"%d" % number)

    code, out, _ = await dead("replay", "--all", "--limit", 3, "--dry-run")
    assert (code, "3 of 5 letters to replay" in out) == (0, True)
    assert await queues.take_all(ORDERS_PLACE) == []
    code, out, _ = await dead("replay", "--all", "--limit", 3, "--yes", "--json", "--wait", 0)
    done = json.loads(out)
    assert (code, done["left"]) == (0, 2)
    assert {letter["outcome"] for letter in done["letters"]} == {"replayed"}
    assert [m.body for m in await queues.take_all(ORDERS_PLACE)] == [b"0", b"1", b"2"]
    code, out, _ = await dead("replay", "--all", "--yes", "--wait", 0)
    last = [letter.letter_id for letter in await letters.all()][3:]
    assert (code, out) == (0, f"letter {last[0]}, {last[1]}: replayed\n")
    code, out, _ = await dead("replay", "--all", "--yes")
    assert (code, out) == (0, "no open letter is meant\n")


async def test_a_selection_is_asked_about_and_a_named_letter_is_not(dead, letter, queues):
    for options in ((), ("--json",)):
        code, _, err = await dead("replay", "--sale", letter.sale_id, *options)
        assert (code, err) == (
            2,
            "seckill: 1 of 1 letters to replay: add --yes to do it, or --dry-run to see them\n",
        )
    assert await queues.take_all(ORDERS_PLACE) == []

    code, out, _ = await dead("replay", letter.letter_id, "--wait", 0.1)  # no consumer runs
    unknown = f"letter {letter.letter_id}: replayed, but not handled yet\n"
    assert (code, out) == (1, unknown)
    code, out, _ = await dead("replay", letter.letter_id)
    assert (code, out) == (1, f"letter {letter.letter_id}: not open\n")


async def test_F6_discard_gives_back_once(dead, letter, shop, letters):
    code, out, _ = await dead("discard", letter.letter_id, "--reason", "test sale", "--json")
    (order,) = letter.orders
    assert code == 0
    assert json.loads(out) == {
        "letters": [
            {
                "letter_id": letter.letter_id,
                "outcome": "discarded",
                "units": 1,
                "orders": {order.order_id: "given back"},
            }
        ],
        "left": 0,
    }
    code, out, _ = await dead("discard", letter.letter_id, "--reason", "again")
    assert (code, out) == (1, f"letter {letter.letter_id}: not open\n")
    (row,) = await letters.audited("dead.discard")
    assert row["reason"] == "test sale"


async def test_one_letter_that_cannot_be_discarded_does_not_keep_the_others(
    dead, open_sale, shop, letters, db
):
    sale = await open_sale()
    ann, bob = await shop.grab(sale, "ann", "bob")
    first, second = await letters.naming(ann), await letters.naming(bob)
    await db.execute("ALTER TABLE orders ADD CONSTRAINT no_ann CHECK (buyer_id <> 'ann') NOT VALID")
    try:
        code, out, _ = await dead("discard", "--all", "--yes", "--reason", "test")
    finally:
        await db.execute("ALTER TABLE orders DROP CONSTRAINT no_ann")

    lines = out.splitlines()
    assert (code, len(lines)) == (1, 2)
    assert lines[0].startswith(f"letter {first.letter_id}: stays open: ")
    assert lines[1] == f"letter {second.letter_id}: discarded, 1 given back, 1 units back"


MISTAKES = {
    "nothing selected": (("replay",), "which letters?"),
    "all and more": (("replay", "--all", "--queue", ORDERS_PLACE), "which letters?"),
    "ids and more": (("replay", "1", "--queue", ORDERS_PLACE), "which letters?"),
    "no such queue": (("list", "--queue", "x"), "there is no queue 'x'; there are: orders.place"),
    "no sale": (("list", "--sale", "a b"), "id 'a b'"),
    "no state": (("list", "--state", "x"), "give open, replayed, discarded or all"),
    "no reason": (("discard", "1", "--reason", " "), "--reason: say why"),
    "no text": (("list", "--match", "\udcff"), "--match: give text in UTF-8"),
    "no file": (("export", "--out", "/no/such/file"), "--out /no/such/file: No such file"),
    "no letter": (("show", "999999999"), "there is no dead letter 999999999"),
}


@pytest.mark.parametrize(("words", "complaint"), MISTAKES.values(), ids=MISTAKES)
async def test_a_mistake_is_one_line(dead, letters, words, complaint):
    code, out, err = await dead(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


async def test_a_broker_that_is_away_is_one_line_and_the_letter_stays_open(dead, letter, letters):
    code, out, err = await dead(
        "replay", letter.letter_id, SECKILL_AMQP_URL="amqp://guest:guest@127.0.0.1:1/"
    )
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "RabbitMQ at 127.0.0.1:1 does not answer" in err
    assert await letters.states() == ["open"]


async def test_redis_that_is_away_is_one_line_and_the_letter_stays_open(dead, letter, letters):
    code, out, err = await dead(
        *("discard", letter.letter_id, "--reason", "test"),
        SECKILL_REDIS_URL="redis://127.0.0.1:1/0",
    )
    assert (code, out, err.count("\n")) == (1, "1 left; run it again for the next\n", 1)
    assert "Redis does not answer" in err
    assert await letters.states() == ["open"]
