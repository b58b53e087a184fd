"""Checks of login tokens: the key and the algorithm are ours to choose, never the token's."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seckill.auth import login_tokens
from seckill.auth.key_ring import KeyRing
from seckill.auth.login_checks import BadLogin, LoginRules, check, read_header
from seckill.auth.login_keys import LoginKeys, shared_keys

SECRET = b"a" * 64  # long enough for HS512, so that only the pin refuses it
RING = KeyRing("k1", {"k1": SECRET})
DEFAULT_RULES = LoginRules()
SOON_S = int(time.time()) + 3600  # longer than a whole run of the suite


def token(
    claims: dict[str, Any], *, key: bytes = SECRET, algorithm: str = "HS256", kid: str = "k1"
) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


def unsigned(header: object, claims: object, signature: str = "") -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}.{signature}"


def verify(keys: KeyRing, text: str, rules: LoginRules = DEFAULT_RULES) -> str | None:
    """Return the buyer of a good token, None for any other text."""
    try:
        header = read_header(text)
        found = LoginKeys(shared_keys(keys)).find(header.alg, header.kid)
        return check(text, found[0], rules).buyer_id if found else None
    except BadLogin:
        return None


def test_a_token_says_who_the_buyer_is() -> None:
    assert verify(RING, login_tokens.issue(RING, buyer_id="ann", expires_at_s=SOON_S)) == "ann"


def test_any_altered_byte_is_refused() -> None:
    good = login_tokens.issue(RING, buyer_id="ann", expires_at_s=SOON_S)
    for place, byte in enumerate(good):
        for other in "~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.":
            if other != byte:
                assert verify(RING, f"{good[:place]}{other}{good[place + 1 :]}") is None


def test_any_cut_or_grown_token_is_refused() -> None:
    good = login_tokens.issue(RING, buyer_id="ann", expires_at_s=SOON_S)
    cut = [good[:n] for n in range(len(good))] + [good[n:] for n in range(1, len(good))]
    grown = [good + more for more in ("=", "==", "A", " ", "\n", ".", "\0")] + [" " + good]
    assert [text for text in cut + grown if verify(RING, text)] == []


@pytest.mark.parametrize("verdict", [True, False])
def test_a_comparison_in_constant_time_decides_alone(
    monkeypatch: pytest.MonkeyPatch, verdict: bool
) -> None:
    compared = []

    def spy(*pair: bytes) -> bool:
        compared.append(pair)
        return verdict

    monkeypatch.setattr(hmac, "compare_digest", spy)  # PyJWT calls it there
    good = login_tokens.issue(RING, buyer_id="ann", expires_at_s=SOON_S)
    signed, _, signature = good.rpartition(".")
    for sent in (signature, "A" * len(signature)):
        assert verify(RING, f"{signed}.{sent}") == ("ann" if verdict else None)
    assert [len(left) == len(right) == 32 for left, right in compared] == [True, True]


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
def test_a_token_without_a_signature_is_refused(algorithm: str) -> None:
    claims = {"sub": "ann", "exp": SOON_S}
    assert verify(RING, unsigned({"alg": algorithm, "kid": "k1"}, claims)) is None
    signature = login_tokens.issue(RING, buyer_id="ann", expires_at_s=SOON_S).rpartition(".")[2]
    assert verify(RING, unsigned({"alg": algorithm, "kid": "k1"}, claims, signature)) is None


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_right_key_with_another_algorithm_is_refused(algorithm: str) -> None:
    assert verify(RING, token({"sub": "ann", "exp": SOON_S}, algorithm=algorithm)) is None


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "HS256 ", "", None, 1, ["HS256"]])
def test_a_token_that_names_a_foreign_algorithm_is_refused(algorithm: object) -> None:
    # Alg confusion: signed with our key as HS256, declared as something else.
    head, body, _ = unsigned({"alg": algorithm, "kid": "k1"}, {"sub": "ann", "exp": SOON_S}).split(
        "."
    )
    raw = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        f"{head}.{body}".encode(), SECRET
    )
    signature = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert verify(RING, f"{head}.{body}.{signature}") is None


def test_another_key_under_a_known_name_is_refused() -> None:
    assert verify(RING, token({"sub": "ann", "exp": SOON_S}, key=b"b" * 64)) is None


@pytest.mark.parametrize("kid", ["k2", "", "../k1"])
def test_an_unknown_key_name_is_refused(kid: str) -> None:
    assert verify(RING, token({"sub": "ann", "exp": SOON_S}, kid=kid)) is None


def test_a_token_without_a_key_name_is_refused() -> None:
    assert verify(RING, jwt.encode({"sub": "ann", "exp": SOON_S}, SECRET)) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": SOON_S},
        {"sub": "ann"},
        {"sub": "ann", "exp": int(time.time()) - int(DEFAULT_RULES.leeway_s) - 1},
        {"sub": "ann", "exp": "soon"},
        {"sub": "ann", "exp": SOON_S, "nbf": SOON_S},
        {"sub": "", "exp": SOON_S},
        {"sub": "ann\n", "exp": SOON_S},
        {"sub": "x" * 256, "exp": SOON_S},
    ],
)
def test_claims_that_do_not_name_a_buyer_now_are_refused(claims: dict[str, Any]) -> None:
    assert verify(RING, token(claims)) is None


@pytest.mark.parametrize("sub", [1.5, True, None, ["ann"], {}])
def test_a_buyer_that_is_neither_text_nor_a_whole_number_is_refused(sub: object) -> None:
    body = json.dumps({"sub": sub, "exp": SOON_S}).encode()
    assert verify(RING, jwt.api_jws.encode(body, SECRET, "HS256", {"kid": "k1"})) is None


def test_clocks_may_differ_by_the_leeway() -> None:
    just_over = int(time.time()) - int(DEFAULT_RULES.leeway_s) // 2
    assert verify(RING, login_tokens.issue(RING, buyer_id="ann", expires_at_s=just_over)) == "ann"


def test_rotation_signs_with_the_first_key_and_still_verifies_the_others() -> None:
    rotated = KeyRing("k2", {"k2": b"b" * 64, "k1": SECRET})
    new = login_tokens.issue(rotated, buyer_id="ann", expires_at_s=SOON_S)
    assert jwt.get_unverified_header(new)["kid"] == "k2"
    assert verify(rotated, new) == "ann"
    assert verify(rotated, login_tokens.issue(RING, buyer_id="ann", expires_at_s=SOON_S)) == "ann"


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_no_other_text_is_a_token(text: str) -> None:
    assert verify(RING, text) is None


@pytest.mark.parametrize("text", ["\udcff", "é.\udc80.x"])
def test_header_bytes_that_are_not_utf8_are_refused(text: str) -> None:
    """The gateway hands header bytes on as lone surrogates; they must not become a 500."""
    assert verify(RING, text) is None


@pytest.mark.parametrize(
    "junk",
    [
        "x" * 7_800,
        "." * 7_800,
        f"{'[' * 300}.x.x",
        f"{unsigned({'alg': 'HS256', 'kid': 'k1'}, {}, 'x')}.x",
        unsigned({"alg": "HS256", "kid": "k1", "more": "x" * 600}, {"sub": "ann"}, "x"),
        unsigned({"alg": "HS256", "kid": "k1"}, {"sub": "ann", "more": "x" * 5_000}, "x"),
        unsigned({"alg": "HS256", "kid": 7}, {}),
        unsigned({"alg": ["HS256"]}, {}),
        unsigned({}, {}),
        unsigned([], {}),
        unsigned(None, {}),
    ],
)
def test_junk_is_refused_before_a_key_is_looked_for(junk: str) -> None:
    with pytest.raises(BadLogin):
        read_header(junk)


def test_a_buyer_may_be_a_whole_number_or_in_another_claim() -> None:
    number = jwt.api_jws.encode(b'{"sub": 7, "exp": %d}' % SOON_S, SECRET, "HS256", {"kid": "k1"})
    assert verify(RING, number) == "7"
    other = token({"sub": "ann\n", "user_id": "u-7", "exp": SOON_S})
    assert verify(RING, other) is None
    assert verify(RING, other, LoginRules(buyer_claim="user_id")) == "u-7"


@pytest.mark.parametrize("audience", ["shop", ["web", "shop"]])
def test_an_audience_is_taken_where_it_is_configured(audience: object) -> None:
    meant = token({"sub": "ann", "exp": SOON_S, "aud": audience})
    assert verify(RING, meant) is None
    assert verify(RING, meant, LoginRules(audiences=("app", "shop"))) == "ann"
    assert verify(RING, meant, LoginRules(audiences=("bank",))) is None
    unmeant = token({"sub": "ann", "exp": SOON_S})
    assert verify(RING, unmeant, LoginRules(audiences=("shop",))) is None


def test_an_issuer_counts_where_it_is_configured() -> None:
    rules = LoginRules(issuer="https://login.example/")
    claims = {"sub": "ann", "exp": SOON_S}
    assert verify(RING, token({**claims, "iss": "https://login.example/"}), rules) == "ann"
    assert verify(RING, token({**claims, "iss": "https://login.example"}), rules) is None
    assert verify(RING, token(claims), rules) is None
    assert verify(RING, token({**claims, "iss": "anybody"})) == "ann"


@pytest.mark.parametrize("exp", ["1e999", "-1e999", "NaN", "[1]", "{}", "null", "true", '"x"'])
def test_an_end_that_is_no_time_is_refused(exp: str) -> None:
    body = f'{{"sub": "ann", "exp": {exp}}}'.encode()
    assert verify(RING, jwt.api_jws.encode(body, SECRET, "HS256", {"kid": "k1"})) is None


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_the_issuers_clock_may_be_ahead_by_the_leeway(claim: str) -> None:
    ahead = token({"sub": "ann", "exp": SOON_S, claim: int(time.time()) + 10})
    assert verify(RING, ahead, LoginRules(leeway_s=5)) is None
    assert verify(RING, ahead, LoginRules(leeway_s=30)) == "ann"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sub": "ann", "exp": 1}, "expired"),
        ({"sub": "ann", "exp": SOON_S, "nbf": SOON_S}, "SECKILL_JWT_LEEWAY_S"),
        ({"sub": "ann", "exp": SOON_S, "aud": "x"}, "SECKILL_JWT_AUDIENCE"),
        ({"sub": "a\n", "exp": SOON_S}, "SECKILL_JWT_BUYER_CLAIM"),
        ({"exp": SOON_S}, "has no sub"),
        ({"sub": "ann"}, "has no exp"),
    ],
)
def test_a_refusal_says_why_and_nothing_of_the_token(claims: dict[str, Any], words: str) -> None:
    with pytest.raises(BadLogin, match=words):
        check(token(claims), shared_keys(RING)[0], DEFAULT_RULES)
