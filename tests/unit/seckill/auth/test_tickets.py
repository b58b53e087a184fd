"""A ticket lets one buyer into one sale until a moment, and cannot be made without a key."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seckill.auth import tickets
from seckill.auth.key_ring import KeyRing
from seckill.errors import UserMistake

RING = KeyRing("k1", {"k1": b"a" * 40})
SALE, BUYER, EXPIRES_AT_S = "spring", "buyer-7", 2_000_000_000
ids = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)


def issue(ring: KeyRing = RING) -> str:
    return tickets.issue(ring, sale_id=SALE, buyer_id=BUYER, expires_at_s=EXPIRES_AT_S)


def verify(
    ticket: str, *, ring: KeyRing = RING, sale_id: str = SALE, now_s: float = 0
) -> str | None:
    return tickets.verify(ring, ticket, sale_id=sale_id, now_s=now_s)


@given(ids, ids, st.integers(1, 2**40))
def test_any_buyer_is_read_back_in_time(sale_id: str, buyer_id: str, expires_at_s: int) -> None:
    ticket = tickets.issue(RING, sale_id=sale_id, buyer_id=buyer_id, expires_at_s=expires_at_s)
    assert verify(ticket, sale_id=sale_id, now_s=expires_at_s - 1) == buyer_id


def test_any_altered_byte_is_refused() -> None:
    ticket = issue().encode()
    for place, old in enumerate(ticket):
        for new in set(range(256)) - {old}:
            altered = ticket[:place] + bytes([new]) + ticket[place + 1 :]
            # The gateway decodes headers so: bytes that are no UTF-8 become lone surrogates.
            assert verify(altered.decode("utf-8", "surrogateescape")) is None


def test_any_cut_or_grown_ticket_is_refused() -> None:
    ticket = issue()
    cut = [ticket[:n] for n in range(len(ticket))] + [ticket[n:] for n in range(1, len(ticket))]
    grown = [ticket + more for more in ("0", " ", "\n", "~", "\0")] + [" " + ticket, "~" + ticket]
    assert [text for text in cut + grown if verify(text)] == []


@given(st.text() | st.lists(st.text(), min_size=4, max_size=4).map("~".join))
def test_no_other_text_is_a_ticket(text: str) -> None:
    assert verify(text) is None


def test_a_ticket_of_another_sale_is_refused() -> None:
    assert verify(issue(), sale_id="autumn") is None


def test_the_ticket_of_one_buyer_cannot_carry_the_name_of_another() -> None:
    assert verify(issue().replace(BUYER, "buyer-8")) is None


def test_a_ticket_cannot_be_prolonged() -> None:
    later = issue().replace(str(EXPIRES_AT_S), str(EXPIRES_AT_S + 1))
    assert verify(later, now_s=EXPIRES_AT_S) is None


def test_a_ticket_is_good_until_its_second() -> None:
    assert verify(issue(), now_s=EXPIRES_AT_S - 0.001) == BUYER
    assert verify(issue(), now_s=EXPIRES_AT_S) is None


def test_rotation_signs_with_the_first_key_and_still_verifies_the_others() -> None:
    rotated = KeyRing.parse(f"k2:{'b' * 40},k1:{'a' * 40}", setting="X")
    assert issue(rotated).startswith("k2~")
    assert verify(issue(rotated), ring=rotated) == BUYER
    assert verify(issue(RING), ring=rotated) == BUYER


def test_a_retired_key_no_longer_verifies() -> None:
    assert verify(issue(RING), ring=KeyRing("k2", {"k2": b"b" * 40})) is None


def test_a_key_of_the_same_name_does_not_verify_what_another_signed() -> None:
    assert verify(issue(RING), ring=KeyRing("k1", {"k1": b"b" * 40})) is None


@pytest.mark.parametrize("verdict", [True, False])
def test_a_comparison_in_constant_time_decides_alone(
    monkeypatch: pytest.MonkeyPatch, verdict: bool
) -> None:
    assert tickets.compare_digest is hmac.compare_digest
    compared = []

    def spy(expected: str, given_: str) -> bool:
        compared.append((expected, given_))
        return verdict

    monkeypatch.setattr(tickets, "compare_digest", spy)
    signed, _, mac = issue().rpartition("~")
    for sent in (mac, "0" * len(mac)):
        assert verify(f"{signed}~{sent}") == (BUYER if verdict else None)
    assert compared == [(mac, mac), (mac, "0" * len(mac))]


def test_F34_a_mac_is_too_long_to_guess() -> None:
    """128 bits: at a billion tries a second, 10**22 years; and only a gateway can check one."""
    mac = issue().rpartition("~")[2]
    assert len(bytes.fromhex(mac)) * 8 == 128


@pytest.mark.parametrize("buyer_id", ["", "a" * 65, "a b", "a\u00e9", "a\n"])
def test_no_ticket_is_made_or_taken_for_an_id_that_no_order_could_have(buyer_id: str) -> None:
    with pytest.raises(UserMistake):
        tickets.issue(RING, sale_id="s", buyer_id=buyer_id, expires_at_s=2**33)
    signed = f"k1~{2**33}~{buyer_id}"
    forged_by_the_shop = f"{signed}~{tickets._mac(RING.keys['k1'], 's', signed)}"
    assert tickets.verify(RING, forged_by_the_shop, sale_id="s", now_s=0) is None


@pytest.mark.parametrize("digits", [20, 21, 4_301])
def test_an_expiry_of_many_digits_is_refused_or_good_and_never_an_error(digits: int) -> None:
    """Python refuses to read a number of 4,301 digits."""
    signed = f"k1~{'9' * digits}~{BUYER}"
    ticket = f"{signed}~{tickets._mac(RING.keys['k1'], SALE, signed)}"
    assert verify(ticket) == (BUYER if digits == 20 else None)


def test_junk_is_refused_by_its_length() -> None:
    assert verify("~" * 3 + "x" * tickets.TICKET_MAX) is None
