"""read(): whatever a dead message is, it is read as far as it can be, and PostgreSQL takes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seckill import messages
from seckill.adapters import topology
from seckill.adapters.topology import ORDERS_EXPIRE, ORDERS_PLACE
from seckill.dead_letters import parser
from seckill.dead_letters.parser import NamedOrder
from seckill.inventory.reservations import Grab
from seckill.order_ids import new_order_id

ID = new_order_id(1)
OTHER = new_order_id(1)


def read(body=b"", headers=None, queue=ORDERS_PLACE):
    return parser.read(queue, body, headers or {})


def test_a_buried_message_says_why_when_and_whom():
    body = messages.encode_place("demo", 1, [], [Grab(ID, "ann", 2)])
    headers = {
        "x-reason": "unknown sale",
        "x-stack": "Traceback",
        "x-attempts": 4,
        "x-first-failed-ms": 1_000,
        "x-last-failed-ms": 2_500,
    }

    dead = read(body, headers)

    assert (dead.reason, dead.stack, dead.attempts) == ("unknown sale", "Traceback", 4)
    assert dead.first_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert dead.last_at == datetime(1970, 1, 1, 0, 0, 2, 500_000, tzinfo=UTC)
    assert (dead.sale_id, dead.orders) == ("demo", (NamedOrder(ID, "ann", 2),))
    assert json.loads(dead.headers) == headers


def test_F23_of_a_body_of_megabytes_the_beginning_is_kept():
    body = messages.encode_place("demo", 1, [], [[ID, "ann", 2]] * 100_000)

    dead = read(body, {"x-reason": "too large"})

    assert dead.body == body[: messages.BODY_BYTES_MAX]
    assert json.loads(dead.headers)["x-bytes"] == len(body)
    assert (dead.reason, dead.sale_id, dead.orders) == ("too large", None, ())


def test_without_headers_all_is_unknown():
    dead = read(b"hello")

    assert dead.reason == "moved by the broker: unknown"
    assert (dead.stack, dead.attempts, dead.first_at, dead.last_at) == (None,) * 4
    assert (dead.sale_id, dead.orders) == (None, ())


MOVED = {"queue": ORDERS_EXPIRE, "reason": "delivery_limit", "count": 1}
TIMER = {"queue": topology.timer(60), "reason": "expired", "count": 1}


def test_F23_the_delivery_limit_is_put_in_words_though_a_timer_moved_it_first():
    moved_at = datetime(2026, 1, 2, tzinfo=UTC)
    headers = {"x-first-death-reason": "expired", "x-death": [{**MOVED, "time": moved_at}, TIMER]}

    dead = read(headers=headers, queue=ORDERS_EXPIRE)

    assert "20 times without an answer: it may take its consumers down" in dead.reason
    assert (dead.attempts, dead.first_at, dead.last_at) == (20, moved_at, moved_at)


ENTRIES = {
    "good": ([ID, "ann", 2], (ID, "ann", 2)),
    "bad buyer": ([ID, "a n n", 2], (ID, None, 2)),
    "no quantity": ([ID, "ann", 0], (ID, "ann", None)),
    "half a unit": ([ID, "ann", 0.5], (ID, "ann", None)),
    "more than an integer": ([ID, "ann", 2**31], (ID, "ann", None)),
    "true": ([ID, "ann", True], (ID, "ann", None)),
    "too short": ([ID], (ID, None, None)),
    "too long": ([ID, "ann", 1, 1], (ID, "ann", 1)),
    "no order id": (["x", "ann", 1], None),
    "empty": ([], None),
    "text": ("x", None),
}


@pytest.mark.parametrize(("entry", "named"), ENTRIES.values(), ids=ENTRIES)
def test_F13_of_a_bad_entry_what_can_be_read_is_named(entry, named):
    body = messages.encode_place("demo", 1, [], [entry])

    assert read(body).orders == ((NamedOrder(*named),) if named else ())


def test_an_order_named_twice_is_one():
    body = messages.encode_place("demo", 1, [], [Grab(ID, "ann", 1)] * 2)
    assert read(body).orders == (NamedOrder(ID, "ann", 1),)


def test_a_timer_names_its_orders():
    dead = read(messages.encode_expire([ID, "x", OTHER]), queue=ORDERS_EXPIRE)
    assert [order.order_id for order in dead.orders] == [ID, OTHER]
    assert dead.sale_id is None


@pytest.mark.parametrize("sale", ["with space", 7, None, "x" * 65])
def test_what_cannot_be_a_sale_is_none(sale):
    assert read(msgspec.msgpack.encode({"sale": sale, "grabs": []})).sale_id is None


def test_copies_are_the_same_letter_and_other_queues_have_others():
    assert read(b"a", {"x-reason": "x"}).digest == read(b"a", {"x-reason": "y"}).digest
    digests = {read(b"a").digest, read(b"b").digest, read(b"a", queue=ORDERS_EXPIRE).digest}
    assert len(digests) == 3


@pytest.mark.parametrize("ms", [-1, 2**63, "soon", None, 1.5])
def test_times_that_cannot_be_are_unknown(ms):
    dead = read(headers={"x-first-failed-ms": ms, "x-last-failed-ms": ms, "x-attempts": "many"})
    assert (dead.first_at, dead.last_at, dead.attempts) == (None, None, None)


HEADER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.datetimes(timezones=st.just(UTC)) | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip
NAMES = st.sampled_from(
    ["x-reason", "x-stack", "x-attempts", "x-death", "x-first-failed-ms", "x-last-failed-ms", "y"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine is
@given(st.binary(), st.dictionaries(NAMES, HEADER))
def test_F13_no_message_is_beyond_reading(body, headers):
    """NUL and lone surrogates are what PostgreSQL refuses in text and jsonb."""
    dead = read(body, headers)
    assert "\0" not in dead.reason + (dead.stack or "")
    assert "\\u0000" not in dead.headers.replace("\\\\", "")
    assert isinstance(json.loads(dead.headers.encode()), dict)
    json.dumps(parser.decode(body))


UNREADABLE = {
    "empty": b"",
    "not MessagePack": b"\xc1",
    "text that is not UTF-8": b"\xa1\xff",
    "nested too deeply": b"\x91" * 1_000_000 + b"\x01",
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_cannot_be_read_decodes_to_nothing(body):
    assert parser.decode(body) is None
    assert read(body).orders == ()
