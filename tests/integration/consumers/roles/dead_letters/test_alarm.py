"""dead_letters: a new letter is a line in the log, and the alarm lasts until no letter is open."""

from __future__ import annotations

import logging

from prometheus_client import REGISTRY

from consumers.roles.dead_letters import OpenLetterCount
from consumers.runtime.poll_role import PollRole
from seckill import messages
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE


async def test_each_arrival_is_a_line_and_counts(put_dead, moved, db, caplog):
    def value(name):
        return REGISTRY.get_sample_value(name, {"queue": ORDERS_PLACE}) or 0

    before = value("seckill_dead_letters_arrived_total")
    body = messages.encode_place("demo", 1, [], ["bad"])
    await put_dead(body, {"x-reason": "Expected `array`, got `str`"})
    with caplog.at_level(logging.ERROR, logger="consumers.roles.dead_letters"):
        (letter,) = await moved()

    (line,) = [r.getMessage() for r in caplog.records if r.name == "consumers.roles.dead_letters"]
    assert line == (
        f"dead letter {letter.letter_id} on orders.place, sale demo, 0 orders: "
        f"Expected `array`, got `str`; see: seckill dead show {letter.letter_id}"
    )
    assert value("seckill_dead_letters_arrived_total") == before + 1


async def test_the_alarm_rings_until_no_letter_is_open(db, letters, running, eventually):
    def gauge():
        return REGISTRY.get_sample_value("seckill_dead_letters_open", {"queue": ORDERS_EXPIRE})

    await letters.arrive(b"x", queue=ORDERS_EXPIRE)
    async with running(PollRole("test", OpenLetterCount(db).run_once, idle_s=0.01)):
        await eventually(lambda: gauge() == 1, "the alarm rings")
        await letters.close_all("discarded")
        await eventually(lambda: gauge() == 0, "the alarm is silent")
