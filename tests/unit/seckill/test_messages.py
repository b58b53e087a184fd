"""Messages: what can become an order is sorted from what cannot, whatever the bytes are."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seckill import messages
from seckill.inventory.outbox import mark_of
from seckill.inventory.reservations import Grab
from seckill.messages import BadMessage, NewerMessage
from seckill.order_ids import new_order_id

pack = msgspec.msgpack.encode
#: The same in every run: it is part of the names of tests.
ORDER_ID = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"

#: What MessagePack can say.
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def unpack(entry: msgspec.Raw) -> object:
    return msgspec.msgpack.decode(entry)


def aside_of(placing: messages.DecodedPlace) -> bytes:
    return messages.encode_bad_grabs(placing, [bad.entry for bad in placing.bad])


def body(**changes: Any) -> bytes:
    """Encode a good orders.place message with some fields changed."""
    good = {"v": 1, "sale": "spring", "epoch": 1, "batch": ["1-0"], "grabs": [[ORDER_ID, "ann", 1]]}
    return pack(good | changes)


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            Grab,
            st.integers(1, 2**24 - 1).map(new_order_id),
            st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
            st.integers(1, 2**31 - 1),
        )
    ),
    st.integers(1, 2**31),
)
def test_grabs_come_out_as_they_went_in(grabs: list[Grab], epoch: int) -> None:
    placing = messages.decode_place(messages.encode_place("spring", epoch, ["1-0", "2-0"], grabs))
    assert placing == messages.DecodedPlace("spring", epoch, grabs, outbox_mark=mark_of(["2-0"]))


def test_the_wire_format_is_the_published_one() -> None:
    sent = messages.encode_place("spring", 3, ["1-0", "2-0"], [Grab(ORDER_ID, "ann", 2)])
    fields = msgspec.msgpack.decode(sent)
    assert fields.pop("traceparent").startswith("00-")
    assert fields == {
        "v": 1,
        "sale": "spring",
        "epoch": 3,
        "batch": ["1-0", "2-0"],
        "grabs": [[ORDER_ID, "ann", 2]],
    }


BAD_ENTRIES = [
    [ORDER_ID, "ann"],
    [ORDER_ID, "ann", 1, 1],
    [ORDER_ID, "ann", 0],
    [ORDER_ID, "ann", -1],
    [ORDER_ID, "ann", 2**31],
    [ORDER_ID, "ann", 1.5],
    [ORDER_ID, "ann", True],
    [ORDER_ID, "ann", "1"],
    [ORDER_ID, "", 1],
    [ORDER_ID, "ann\n", 1],
    [ORDER_ID, "a\0b", 1],
    [ORDER_ID, "x" * 65, 1],
    [ORDER_ID, b"ann", 1],
    [ORDER_ID.upper(), "ann", 1],
    ["x" + ORDER_ID, "ann", 1],
    [ORDER_ID + "\n", "ann", 1],
    [None, "ann", 1],
    {"order_id": ORDER_ID},
    "ann",
    None,
]


@pytest.mark.parametrize("bad", BAD_ENTRIES, ids=repr)
def test_F23_one_bad_entry_leaves_its_neighbours_alone(bad: object) -> None:
    good = [new_order_id(1), "ann", 1], [new_order_id(1), "bob", 2]
    placing = messages.decode_place(body(grabs=[good[0], bad, good[1]]))
    assert placing.grabs == [Grab(*entry) for entry in good]
    assert [(unpack(b.entry), bool(b.reason)) for b in placing.bad] == [(bad, True)]


@pytest.mark.parametrize("bad", BAD_ENTRIES, ids=repr)
def test_a_bad_entry_can_be_put_aside_as_a_message_of_its_own(bad: object) -> None:
    placing = messages.decode_place(body(grabs=[[ORDER_ID, "ann", 1], bad]))
    aside = messages.decode_place(aside_of(placing))
    assert (aside.sale_id, aside.epoch, aside.grabs) == ("spring", 1, [])
    assert [unpack(b.entry) for b in aside.bad] == [bad]


@pytest.mark.parametrize(
    "changes",
    [
        {"sale": ""},
        {"sale": "a b"},
        {"sale": "spring\n"},
        {"epoch": 0},
        {"epoch": 2**53 + 1},
        {"epoch": "1"},
        {"batch": None},
        {"grabs": {}},
        {"v": "1"},
    ],
    ids=repr,
)
def test_an_unreadable_envelope_is_a_bad_message(changes: dict[str, Any]) -> None:
    with pytest.raises(BadMessage, match=r"orders\.place"):
        messages.decode_place(body(**changes))


@pytest.mark.parametrize("changes", [{}, {"grabs": "of another form"}], ids=repr)
def test_a_newer_version_is_not_guessed_at(changes: dict[str, Any]) -> None:
    with pytest.raises(NewerMessage, match="version 3"):
        messages.decode_place(body(v=3, **changes))


def test_a_newer_timer_version_is_not_guessed_at() -> None:
    with pytest.raises(NewerMessage, match="version 2"):
        messages.decode_expire(pack({"v": 2, "orders": [ORDER_ID]}))


def test_added_fields_are_tolerated() -> None:
    assert messages.decode_place(body(colour="red", more={"a": [1]})).grabs == [
        Grab(ORDER_ID, "ann", 1)
    ]
    assert messages.decode_expire(pack({"v": 1, "orders": [ORDER_ID], "why": "x"})) == [ORDER_ID]


def test_a_message_without_optional_fields_is_read() -> None:
    bare = pack({"sale": "s", "epoch": 1, "batch": [], "grabs": []})
    assert messages.decode_place(bare) == messages.DecodedPlace("s", 1, [])


def test_timers_come_out_as_they_went_in() -> None:
    order_ids = [new_order_id(n) for n in (1, 2, 3)]
    assert messages.decode_expire(messages.encode_expire(order_ids)) == order_ids


@pytest.mark.parametrize("bad", ["", "x", ORDER_ID + "\n", ORDER_ID.upper()], ids=repr)
def test_a_timer_for_what_is_no_order_id_is_a_bad_message(bad: str) -> None:
    with pytest.raises(BadMessage, match="not an order id"):
        messages.decode_expire(messages.encode_expire([ORDER_ID, bad]))


def test_a_saga_step_comes_out_as_it_went_in() -> None:
    step = messages.decode_saga_step(messages.encode_saga_step("fulfil", "tx-1", "RUNNING", 2))
    assert (step.saga, step.tx_id, step.state, step.step, step.v) == (
        "fulfil",
        "tx-1",
        "RUNNING",
        2,
        1,
    )


@pytest.mark.parametrize(
    "changes", [{"state": "COMPLETED"}, {"state": "RUNNING\n"}, {"step": -1}, {"step": 2**15}]
)
def test_a_step_that_no_saga_has_is_a_bad_message(changes: dict[str, Any]) -> None:
    good = {"v": 1, "saga": "fulfil", "tx_id": "tx-1", "state": "RUNNING", "step": 0}
    assert messages.decode_saga_step(pack(good))
    with pytest.raises(BadMessage):
        messages.decode_saga_step(pack(good | changes))


decoders = pytest.mark.parametrize(
    "decode", [messages.decode_place, messages.decode_expire, messages.decode_saga_step]
)


@decoders
@settings(max_examples=50)
@given(raw=st.binary() | values.map(pack) | st.binary().map(lambda tail: body() + tail))
def test_F23_garbage_is_a_bad_message_and_nothing_else(decode: Any, raw: bytes) -> None:
    """Anything else that escapes would stop the consumer, again with each redelivery."""
    with suppress(BadMessage):
        decode(raw)


NOT_UTF8 = b"\xa2\xff\xfe"
#: Deeper than any Python reads: 1,000 levels of 3.11, 10,000 of 3.13, what fits the stack of 3.14.
NESTED = b"\x91" * 1_000_000 + b"\x90"


@decoders
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(body()[:-1], id="cut short"),
        pytest.param(body() + b"\x01", id="with a tail"),
        pytest.param(
            b"\x82\xa4sale" + NOT_UTF8 + b"\xa6orders\x91" + NOT_UTF8, id="text not UTF-8"
        ),
        pytest.param(body(grabs=[]).replace(b"\x90", NESTED), id="entry nested deeply"),
        pytest.param(b"\x81\xa4more" + NESTED, id="unknown field nested deeply"),
    ],
)
def test_F23_hostile_bytes_are_a_bad_message_and_nothing_else(decode: Any, raw: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(raw)


@settings(max_examples=50)
@given(st.lists(values, max_size=5))
def test_every_entry_is_either_good_or_bad(entries: list[Any]) -> None:
    placing = messages.decode_place(body(grabs=entries))
    assert len(placing.grabs) + len(placing.bad) == len(entries)
    aside = messages.decode_place(aside_of(placing))
    assert (len(aside.grabs), len(aside.bad)) == (0, len(placing.bad))


def test_F23_an_entry_of_any_depth_can_be_dead_lettered() -> None:
    """Near the limit an entry can be read, and is too deep to be written as an object again."""
    for depth in range(900, 1100):
        nested = body(grabs=[]).replace(b"\x90", b"\x91" * depth + b"\x90")
        with suppress(BadMessage):
            placing = messages.decode_place(nested)
            assert bytes(placing.bad[0].entry) in aside_of(placing)


def test_F23_an_entry_that_is_not_utf8_leaves_its_neighbours_alone() -> None:
    raw = body(grabs=[[ORDER_ID, "ann", 1], None])[:-1] + b"\x93" + NOT_UTF8 + b"\xa3bob\x01"
    placing = messages.decode_place(raw)
    assert placing.grabs == [Grab(ORDER_ID, "ann", 1)]
    assert [bad.reason for bad in placing.bad] == ["text that is not UTF-8"]


LARGE = messages.BODY_BYTES_MAX


@decoders
@pytest.mark.parametrize(
    ("raw", "bound"),
    [
        (body(grabs=[None] * 1_200_000), f"{LARGE:,}"),
        (body(more="x" * LARGE), f"{LARGE:,}"),
        (b"\xc1" * (LARGE + 1), f"{LARGE:,}"),
        (b"\x81\xa4more" + NESTED, "nested deeper than Python reads"),
    ],
    ids=["a million entries", "an unknown field", "no MessagePack", "nested"],
)
def test_F23_what_is_beyond_a_bound_names_the_bound(decode: Any, raw: bytes, bound: str) -> None:
    with pytest.raises(BadMessage, match=bound):
        decode(raw)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"grabs": [None] * (messages.PLACE_ENTRIES_MAX + 1)}, "length <= 4096"),
        ({"batch": ["1-0"] * (messages.PLACE_ENTRIES_MAX + 1)}, "length <= 4096"),
        ({"batch": ["1" * 33]}, "length <= 32"),
        ({"sale": "s" * 65}, "{1,64}"),
        ({"epoch": messages.EPOCH_MAX + 1}, f"<= {messages.EPOCH_MAX}"),
    ],
    ids=["grabs", "outbox ids", "an outbox id", "the sale", "the epoch"],
)
def test_F23_each_part_of_an_orders_place_message_has_a_bound(
    changes: dict[str, Any], bound: str
) -> None:
    with pytest.raises(BadMessage, match=re.escape(bound)):
        messages.decode_place(body(**changes))


def test_F23_what_we_send_at_most_is_far_within_the_bounds() -> None:
    grabs = [Grab(ORDER_ID, "b" * 64, 2**31 - 1)] * messages.MESSAGE_GRABS_MAX
    outbox_ids = ["9999999999999-99999"] * messages.MESSAGE_GRABS_MAX
    sent = messages.encode_place("s" * 64, messages.EPOCH_MAX, outbox_ids, grabs)
    assert messages.decode_place(sent).grabs == grabs
    assert len(sent) < LARGE / 4
    timers = messages.encode_expire([ORDER_ID] * messages.EXPIRE_ORDERS_MAX)
    assert len(messages.decode_expire(timers)) == messages.EXPIRE_ORDERS_MAX


def test_F23_a_timer_message_has_a_bound() -> None:
    many = [ORDER_ID] * (messages.EXPIRE_ENTRIES_MAX + 1)
    with pytest.raises(BadMessage, match="length <= 16384"):
        messages.decode_expire(messages.encode_expire(many))
    with pytest.raises(BadMessage, match="length <= 64"):
        messages.decode_expire(messages.encode_expire(["x" * 65]))


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([b"\xdd", b"\xdf", b"\xc6", b"\xdb"]), st.binary()
)
def test_F23_a_size_that_is_only_claimed_costs_nothing(size: int, kind: bytes, tail: bytes) -> None:
    """An array, map, text or bytes of four thousand million items, of which none follows."""
    claimed = kind + size.to_bytes(4, "big") + tail
    for raw in (claimed, b"\x81\xa5grabs" + claimed, b"\x81\xa5parts" + claimed):
        for decode in (
            messages.decode_place, messages.decode_expire, messages.decode_saga_step,
        ):  # fmt: skip
            with suppress(BadMessage):
                decode(raw)
        assert messages.sale_of(raw) == ""
        assert messages.parts_of(raw) in ([raw], [])


def test_the_sale_of_a_message_is_read_without_its_grabs() -> None:
    assert messages.sale_of(body(grabs="whatever")) == "spring"
    assert messages.sale_of(b"\xff") == ""


def test_a_multi_sale_message_returns_its_parts() -> None:
    parts = [body(), body(sale="summer"), b"\xff"]
    message = messages.encode_multi_sale(parts)
    assert messages.parts_of(message) == parts
    assert messages.sale_of(message) == ""


@pytest.mark.parametrize(
    "other",
    [
        body(),
        body(parts=[body()]),
        pack({"v": 3, "parts": [body()]}),
        pack({"v": 2}),
        b"\xff",
        b"",
        messages.encode_multi_sale([b""] * (messages.PARTS_MAX + 1)),
        messages.encode_multi_sale([b"x" * messages.BODY_BYTES_MAX]),
    ],
    ids=repr,
)
def test_any_other_message_is_its_own_only_part(other: bytes) -> None:
    assert messages.parts_of(other) == [other]


def test_an_older_consumer_takes_a_multi_sale_message_for_a_newer_one() -> None:
    assert messages.MULTI_SALE_VERSION > messages.VERSION


@pytest.mark.parametrize(
    "other",
    [messages.encode_multi_sale([b""] * (messages.PARTS_MAX + 1)), pack({"v": 2}), body(v=2)],
    ids=["too many parts", "no parts", "no part of its own"],
)
def test_F23_a_multi_sale_message_that_cannot_be_opened_is_a_bad_message(other: bytes) -> None:
    with pytest.raises(BadMessage, match="multi-sale message of at most 48"):
        messages.decode_place(other)
