"""Public keys of a login service: weak, costly, private and foreign ones are left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from seckill.auth.login_checks import BadLogin, LoginRules, check, read_header
from seckill.auth.login_keys import LoginKeys
from seckill.auth.public_keys import UnusableKey, parse_jwks, parse_pem
from seckill.errors import UserMistake

CLAIMS = {"sub": "ann", "exp": datetime.now(UTC) + timedelta(hours=1)}
SETTING = "SECKILL_JWT_PUBLIC_KEY"


@cache
def rsa_key(bits: int = 2048, e: int = 65_537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=e, key_size=bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


#: Algorithm -> a private key for it, and what writes the public one as a JSON Web Key.
KINDS: dict[str, tuple[Any, Any]] = {
    "RS256": (rsa_key, RSAAlgorithm),
    "ES256": (ec_key, ECAlgorithm),
    "EdDSA": (ed_key, OKPAlgorithm),
}


def jwk_of(key: Any, writer: Any, **more: object) -> dict[str, Any]:
    return {**writer.to_jwk(key, as_dict=True), **more}


def public_jwk(algorithm: str, **more: object) -> dict[str, Any]:
    make, writer = KINDS[algorithm]
    written = jwk_of(make().public_key(), writer)
    written.pop("key_ops", None)
    return {**written, **more}


def key_set(*jwks: object) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def pem_of(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def buyer_of(keys: LoginKeys, token: str) -> str | None:
    header = read_header(token)
    for key in keys.find(header.alg, header.kid):
        try:
            return check(token, key, LoginRules()).buyer_id
        except BadLogin:
            continue
    return None


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_key_of_a_set_checks_tokens_of_its_algorithm_and_name(algorithm: str) -> None:
    keys = LoginKeys(parse_jwks(key_set(public_jwk(algorithm, kid="a", use="sig")))[0])
    private = KINDS[algorithm][0]()
    assert buyer_of(keys, jwt.encode(CLAIMS, private, algorithm, {"kid": "a"})) == "ann"
    assert buyer_of(keys, jwt.encode(CLAIMS, private, algorithm)) == "ann", "it need not be named"
    assert buyer_of(keys, jwt.encode(CLAIMS, private, algorithm, {"kid": "b"})) is None


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_key_in_pem_checks_tokens_whatever_they_call_it(algorithm: str) -> None:
    private = KINDS[algorithm][0]()
    text = pem_of(private)
    for written in (text, text.replace("\n", "\\n"), f"\n{text}\n"):
        keys = LoginKeys(parse_pem(written, setting=SETTING))
        assert buyer_of(keys, jwt.encode(CLAIMS, private, algorithm, {"kid": "any"})) == "ann"
        assert buyer_of(keys, jwt.encode(CLAIMS, private, algorithm)) == "ann"


def test_several_keys_may_be_in_one_text_to_rotate_them() -> None:
    text = pem_of(ec_key()) + pem_of(ec.generate_private_key(ec.SECP256R1())) + pem_of(rsa_key())
    keys = LoginKeys(parse_pem(text, setting=SETTING))
    for algorithm in ("ES256", "RS256"):
        assert buyer_of(keys, jwt.encode(CLAIMS, KINDS[algorithm][0](), algorithm)) == "ann"


def test_a_certificate_gives_its_key() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "login")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(name, name, rsa_key().public_key(), 1, now, now)
    signed = certificate.sign(rsa_key(), hashes.SHA256())
    keys = LoginKeys(parse_pem(signed.public_bytes(Encoding.PEM).decode(), setting=SETTING))
    assert buyer_of(keys, jwt.encode(CLAIMS, rsa_key(), "RS256")) == "ann"


@pytest.mark.parametrize("algorithm", KINDS)
def test_no_other_algorithm_fits_a_key(algorithm: str) -> None:
    """Algorithm confusion: what is public must not become a shared secret, or another kind."""
    private = KINDS[algorithm][0]()
    keys = LoginKeys(parse_pem(pem_of(private), setting=SETTING))
    assert keys.algorithms == {algorithm}
    for secret in (pem_of(private), pem_of(private).strip()):
        forged = jwt.api_jws.encode(b"{}", "x" * 64, "HS256", {"kid": "a"})
        head = forged.rpartition(".")[0].encode()
        hmac = jwt.get_algorithm_by_name("HS256")
        signature = hmac.sign(head, secret.encode())
        text = f"{head.decode()}.{jwt.utils.base64url_encode(signature).decode()}"
        assert buyer_of(keys, text) is None
    for other in {*KINDS} - {algorithm}:
        assert buyer_of(keys, jwt.encode(CLAIMS, KINDS[other][0](), other)) is None
    assert buyer_of(keys, jwt.encode(CLAIMS, "", "none")) is None


def test_another_hash_or_padding_with_the_right_key_is_refused() -> None:
    keys = LoginKeys(parse_pem(pem_of(rsa_key()), setting=SETTING))
    for algorithm in ("RS384", "RS512", "PS256"):
        assert buyer_of(keys, jwt.encode(CLAIMS, rsa_key(), algorithm)) is None


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_a_key_that_a_token_brings_along_is_not_looked_at(name: str) -> None:
    keys = LoginKeys(parse_jwks(key_set(public_jwk("ES256", kid="a")))[0])
    stranger = ec.generate_private_key(ec.SECP256R1())
    brought = {
        "jwk": ECAlgorithm.to_jwk(stranger.public_key(), as_dict=True),
        "x5c": ["MIIB"],
    }.get(name, "http://127.0.0.1:1/")
    header = {"kid": "a", name: brought}
    assert buyer_of(keys, jwt.encode(CLAIMS, stranger, "ES256", header)) is None


def test_a_signature_of_a_stranger_or_of_a_wrong_length_is_refused() -> None:
    for algorithm, (make, _) in KINDS.items():
        keys = LoginKeys(parse_pem(pem_of(make()), setting=SETTING))
        text, _, signature = jwt.encode(CLAIMS, make(), algorithm).rpartition(".")
        for wrong in ("", "AA", signature[:-4], signature + "AAAA", "A" * len(signature)):
            assert buyer_of(keys, f"{text}.{wrong}") is None


@pytest.mark.parametrize(
    ("jwk", "words"),
    [
        (lambda: jwk_of(rsa_key(1024).public_key(), RSAAlgorithm), "not 1,024"),
        (lambda: jwk_of(rsa_key(e=3).public_key(), RSAAlgorithm), "exponent"),
        (
            lambda: public_jwk("RS256", e=jwt.utils.to_base64url_uint(2**32 + 1).decode()),
            "exponent",
        ),
        (lambda: jwk_of(rsa_key(), RSAAlgorithm), "private key"),
        (lambda: public_jwk("RS256", alg="RS512"), "alg"),
        (lambda: public_jwk("RS256", use="enc"), "not meant"),
        (lambda: public_jwk("RS256", key_ops=["encrypt"]), "not meant"),
        (lambda: public_jwk("RS256", kid=7), "no JSON Web Key"),
        (lambda: public_jwk("RS256", n="!"), "no public key|bits|numbers"),
        (lambda: public_jwk("RS256", kty="EC"), "numbers"),
        (lambda: public_jwk("ES256", crv="P-384"), "numbers"),
        (lambda: public_jwk("ES256", x=public_jwk("ES256")["y"]), "numbers"),
        (
            lambda: jwk_of(ec.generate_private_key(ec.SECP384R1()).public_key(), ECAlgorithm),
            "P-256|numbers",
        ),
        (
            lambda: jwk_of(ed448.Ed448PrivateKey.generate().public_key(), OKPAlgorithm),
            "Ed25519|numbers",
        ),
        (lambda: {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "a"}, "kty"),
        (lambda: {"kty": "RSA"}, "numbers"),
        (lambda: "key", "no JSON Web Key"),
    ],
)
def test_a_key_that_cannot_be_trusted_is_left_out_and_the_others_are_used(jwk, words: str) -> None:
    with pytest.raises(UnusableKey, match=words):
        parse_jwks(key_set(jwk()))
    keys, left_out = parse_jwks(key_set(jwk(), public_jwk("ES256", kid="good")))
    assert [key.kid for key in keys] == ["good"]
    assert len(left_out) == 1


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"keys": 1}', b'{"keys": []}', b"\xff", b"[" * 9_000]
)
def test_what_is_no_set_of_keys_says_so(body: bytes) -> None:
    with pytest.raises(UnusableKey):
        parse_jwks(body)


def test_a_huge_set_is_cut() -> None:
    keys, left_out = parse_jwks(key_set(*[public_jwk("ES256", kid=str(n)) for n in range(40)]))
    assert (len(keys), left_out) == (32, ["8 keys too many"])


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just([]) | st.just({})


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["kty", "kid", "crv", "n", "e", "x", "y", "alg", "use", "key_ops"]),
        st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig"]) | JSON,
    )
)
def test_whatever_a_set_holds_nothing_breaks(jwk: dict[str, object]) -> None:
    with pytest.raises(UnusableKey):
        parse_jwks(key_set(jwk))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "BEGIN PUBLIC KEY"),
        (lambda: pem_of(ec_key()) * 5, "1 to 4"),
        (lambda: pem_of(rsa_key(1024)), "bits"),
        (lambda: pem_of(ec_key()).replace("M", "N"), "damaged"),
        (
            lambda: (
                ec_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
            ),
            "private key",
        ),
    ],
)
def test_pem_that_cannot_be_used_names_the_setting_and_the_mistake(text, words: str) -> None:
    with pytest.raises(UserMistake, match=f"{SETTING}: .*{words}"):
        parse_pem(text if isinstance(text, str) else text(), setting=SETTING)
