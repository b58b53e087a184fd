"""Stream tokens: one buyer, one order, some seconds, and nothing else."""

from __future__ import annotations

import pytest

from seckill.auth import stream_tokens, tickets
from seckill.auth.key_ring import KeyRing

KEYS = KeyRing.parse(f"k1:{'x' * 40},k2:{'y' * 40}", setting="test")
ORDER, OTHER = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e", "019aab2f-4c00-8000-8005-5d3c1f0a2b7f"
TOKEN = stream_tokens.issue(KEYS, order_id=ORDER, buyer_id="alice", expires_at_s=1000)


def verify(token: str, *, order_id: str = ORDER, now_s: float = 999) -> str | None:
    return stream_tokens.verify(KEYS, token, order_id=order_id, now_s=now_s)


def test_it_is_for_its_buyer_and_order_until_its_moment():
    assert verify(TOKEN) == "alice"
    assert verify(TOKEN, order_id=OTHER) is None
    assert verify(TOKEN, now_s=1000) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "~",
        "k1",
        TOKEN[:-1],
        TOKEN + "0",
        TOKEN.replace("alice", "bob"),
        TOKEN.replace("1000", "9999"),
        TOKEN.replace("k1", "k2"),
        TOKEN.replace("k1", "k3"),
        TOKEN + "é",
        "k1~" + "9" * 10_000,
    ],
)
def test_any_other_text_is_none(token):
    assert verify(token) is None


def test_a_ticket_is_no_stream_token_and_a_stream_token_no_ticket():
    ticket = tickets.issue(KEYS, sale_id=ORDER, buyer_id="alice", expires_at_s=1000)
    assert verify(ticket) is None
    assert tickets.verify(KEYS, TOKEN, sale_id=ORDER, now_s=999) is None
