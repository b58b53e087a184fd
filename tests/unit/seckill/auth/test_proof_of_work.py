"""A proof is one buyer's work for one sale: not made before, not carried over, not made lighter."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seckill.auth import proof_of_work, tickets
from seckill.auth.key_ring import KeyRing
from seckill.auth.proof_of_work import Flaw, Proof
from seckill_client.proof_of_work import solve

RING = KeyRing("k1", {"k1": b"a" * 40})
SALE, BUYER, EXPIRES_AT_S, BITS = "spring", "buyer-7", 2_000_000_000, 9
ids = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)

#: For authors of other solvers: bits, challenge and its least solution.
KNOWN = [
    (0, "a", "0"),
    (12, "k1~2000000000~12~abcdefghijklmnopqrstuv~00112233445566778899aabbccddeeff", "473"),
    (16, "k1~2000000000~16~abcdefghijklmnopqrstuv~00112233445566778899aabbccddeeff", "58160"),
]


def issue(ring: KeyRing = RING, *, bits: int = BITS) -> str:
    return proof_of_work.issue(
        ring, sale_id=SALE, buyer_id=BUYER, bits=bits, expires_at_s=EXPIRES_AT_S
    )


def check(
    challenge: str,
    solution: str,
    *,
    ring: KeyRing = RING,
    sale_id: str = SALE,
    buyer_id: str = BUYER,
    bits: int = BITS,
    now_s: float = 0,
) -> Proof | Flaw:
    return proof_of_work.check(
        ring, challenge, solution, sale_id=sale_id, buyer_id=buyer_id, bits=bits, now_s=now_s
    )


def zero_bits(text: str) -> int:
    """Count leading zero bits by writing them out."""
    written = "".join(f"{byte:08b}" for byte in sha256(text.encode()).digest())
    return len(written) - len(written.lstrip("0"))


@given(ids, ids, st.integers(0, 10), st.integers(1, 2**40))
def test_any_buyer_who_did_the_work_has_a_proof(
    sale_id: str, buyer_id: str, bits: int, expires_at_s: int
) -> None:
    challenge = proof_of_work.issue(
        RING, sale_id=sale_id, buyer_id=buyer_id, bits=bits, expires_at_s=expires_at_s
    )
    found = check(
        challenge,
        solve(challenge, bits),
        sale_id=sale_id,
        buyer_id=buyer_id,
        bits=bits,
        now_s=expires_at_s - 1,
    )
    assert found == Proof(challenge.split("~")[3], expires_at_s)


def test_any_altered_byte_of_a_challenge_is_refused() -> None:
    challenge = issue(bits=0)  # which any number solves: the MAC alone refuses
    assert isinstance(check(challenge, "0", bits=0), Proof)
    for place, old in enumerate(challenge):
        for new in set(map(chr, range(256))) - {old}:
            altered = challenge[:place] + new + challenge[place + 1 :]
            assert check(altered, "0", bits=0) is Flaw.FOREIGN


def test_any_cut_or_grown_challenge_is_refused() -> None:
    challenge = issue(bits=0)
    cut = [challenge[:n] for n in range(len(challenge))] + [
        challenge[n:] for n in range(1, len(challenge))
    ]
    grown = [challenge + more for more in "0 \n~:\0"] + [" " + challenge, "~" + challenge]
    assert {check(text, "0", bits=0) for text in cut + grown} == {Flaw.FOREIGN}


@given(st.text() | st.lists(st.text(), min_size=5, max_size=5).map("~".join), st.text())
def test_no_other_text_is_a_proof(challenge: str, solution: str) -> None:
    assert check(challenge, solution, bits=0) is Flaw.FOREIGN


@given(st.text())
def test_what_is_no_number_solves_nothing(solution: str) -> None:
    is_number = solution.isascii() and solution.isdigit() and len(solution) <= 20
    assert isinstance(check(issue(bits=0), solution, bits=0), Proof) == is_number


@pytest.mark.parametrize("solution", ["", "1\n", " 1", "+1", "-1", "1.0", "٣", "0" * 21])
def test_numbers_in_another_spelling_solve_nothing(solution: str) -> None:
    assert check(issue(bits=0), solution, bits=0) is Flaw.UNSOLVED


def test_the_work_of_one_buyer_serves_no_other() -> None:
    challenge = issue()
    solution = solve(challenge, BITS)
    assert check(challenge, solution, buyer_id="buyer-8") is Flaw.FOREIGN
    assert check(challenge, solution, sale_id="autumn") is Flaw.FOREIGN
    # Sale and buyer are distinct even if they are written one after the other.
    joined = proof_of_work.issue(
        RING, sale_id="ab", buyer_id="c", bits=0, expires_at_s=EXPIRES_AT_S
    )
    assert check(joined, "0", sale_id="a", buyer_id="bc", bits=0) is Flaw.FOREIGN


def test_a_challenge_is_good_until_its_second() -> None:
    challenge = issue()
    solution = solve(challenge, BITS)
    assert isinstance(check(challenge, solution, now_s=EXPIRES_AT_S - 0.001), Proof)
    assert check(challenge, solution, now_s=EXPIRES_AT_S) is Flaw.EXPIRED


def test_a_challenge_is_too_easy_once_the_sale_asks_for_more() -> None:
    challenge = issue()
    solution = solve(challenge, BITS)
    assert check(challenge, solution, bits=BITS + 1) is Flaw.TOO_EASY
    assert isinstance(check(challenge, solution, bits=BITS - 1), Proof)


def test_a_challenge_is_solved_by_the_work_that_it_says_and_no_less() -> None:
    challenge = issue()
    numbers = map(str, range(10_000))
    almost = next(n for n in numbers if zero_bits(f"{challenge}:{n}") == BITS - 1)
    assert check(challenge, almost, bits=BITS - 1) is Flaw.UNSOLVED


@given(st.integers(0, 300))
def test_zero_bits_are_counted_from_the_front(number: int) -> None:
    text = f"text-{number}"
    assert proof_of_work.leading_zero_bits(sha256(text.encode()).digest()) == zero_bits(text)


@pytest.mark.parametrize(
    ("digest", "bits"),
    [("ff", 0), ("7f", 1), ("01ff", 7), ("00ff", 8), ("007f", 9), ("000fff", 12), ("0000", 16)],
)
def test_zero_bits_need_not_fill_bytes(digest: str, bits: int) -> None:
    assert proof_of_work.leading_zero_bits(bytes.fromhex(digest)) == bits


@pytest.mark.parametrize("bits", range(12))
def test_the_solution_found_is_the_least(bits: int) -> None:
    challenge = issue(bits=bits)
    found = int(solve(challenge, bits))
    assert zero_bits(f"{challenge}:{found}") >= bits
    assert all(zero_bits(f"{challenge}:{n}") < bits for n in range(found))


@pytest.mark.parametrize(("bits", "challenge", "solution"), KNOWN)
def test_known_challenges_have_their_known_solutions(
    bits: int, challenge: str, solution: str
) -> None:
    assert solve(challenge, bits) == solution


def test_no_two_challenges_are_the_same() -> None:
    assert len({issue() for _ in range(100)}) == 100


def test_a_ticket_is_never_a_challenge_nor_a_challenge_a_ticket() -> None:
    key, signed = RING.keys["k1"], issue(bits=0).rpartition("~")[0]
    # Even over the same bytes, under the same key, the two have different MACs.
    of_ticket = tickets._mac(key, SALE, f"{BUYER}~{signed}")
    of_challenge = proof_of_work._mac(key, SALE, BUYER, signed)
    assert isinstance(check(f"{signed}~{of_challenge}", "0", bits=0), Proof)
    assert check(f"{signed}~{of_ticket}", "0", bits=0) is Flaw.FOREIGN
    ticket = tickets.issue(RING, sale_id=SALE, buyer_id=BUYER, expires_at_s=EXPIRES_AT_S)
    assert check(ticket, "0", bits=0) is Flaw.FOREIGN
    assert tickets.verify(RING, issue(), sale_id=SALE, now_s=0) is None


def test_rotation_signs_with_the_first_key_and_still_verifies_the_others() -> None:
    rotated = KeyRing.parse(f"k2:{'b' * 40},k1:{'a' * 40}", setting="X")
    assert issue(rotated).startswith("k2~")
    for ring in (rotated, RING):
        assert isinstance(check(issue(ring, bits=0), "0", ring=rotated, bits=0), Proof)
    assert check(issue(rotated, bits=0), "0", ring=RING, bits=0) is Flaw.FOREIGN


def test_the_mac_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def spy(expected: str, given_: str) -> bool:
        compared.append(given_)
        return False

    monkeypatch.setattr(proof_of_work, "compare_digest", spy)
    challenge = issue(bits=0)
    assert check(challenge, "0", bits=0) is Flaw.FOREIGN, "it is good only by that comparison"
    assert compared == [challenge.rpartition("~")[2]]
