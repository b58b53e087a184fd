"""Signatures of webhooks: by one of our keys, over this body, and not long ago."""

from __future__ import annotations

import pytest

from seckill.auth.key_ring import KeyRing
from seckill.auth.webhook_signatures import REPLAY_WINDOW_S, is_signed, sign

OLD, NEW = "k1:" + "o" * 32, "k2:" + "n" * 32
BODY = b'{"key": "pay-1", "status": "authorised"}'
AT_S = 1_700_000_000


def ring(text: str) -> KeyRing:
    return KeyRing.parse(text, setting="test")


def test_what_we_sign_we_take() -> None:
    assert is_signed(ring(OLD), sign(ring(OLD), BODY, now_s=AT_S), BODY, now_s=AT_S)


def test_while_keys_are_rotated_both_are_good() -> None:
    for signing in (OLD, NEW):
        header = sign(ring(signing), BODY, now_s=AT_S)
        assert is_signed(ring(f"{NEW},{OLD}"), header, BODY, now_s=AT_S)


def test_another_body_another_time_and_another_key_are_refused() -> None:
    header = sign(ring(OLD), BODY, now_s=AT_S)
    assert not is_signed(ring(OLD), header, BODY + b" ", now_s=AT_S)
    assert not is_signed(ring(NEW), header, BODY, now_s=AT_S)
    later = header.replace(f"t={AT_S}", f"t={AT_S + 1}")
    assert not is_signed(ring(OLD), later, BODY, now_s=AT_S)


@pytest.mark.parametrize("sign_of_time", [-1, 1])
def test_the_replay_window_ends(sign_of_time: int) -> None:
    header = sign(ring(OLD), BODY, now_s=AT_S)
    edge_s = AT_S + sign_of_time * REPLAY_WINDOW_S
    assert is_signed(ring(OLD), header, BODY, now_s=edge_s)
    assert not is_signed(ring(OLD), header, BODY, now_s=edge_s + sign_of_time)


@pytest.mark.parametrize(
    "header", ["", "t=1", f"t={AT_S},v1=", f"t={AT_S},v1={'0' * 64}", f"t=٣,v1={'0' * 64}"]
)
def test_what_is_no_signature_is_refused(header: str) -> None:
    assert not is_signed(ring(OLD), header, BODY, now_s=AT_S)
