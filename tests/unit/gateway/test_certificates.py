"""Certificates: the file that cannot be used is named, and so is what is wrong with it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from config.settings import BadSettings
from gateway.tls import load


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate and key, another's key, and files that are neither."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    mine, other = ca.issue_cert("localhost"), ca.issue_cert("localhost")
    mine.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    mine.private_key_pem.write_to_path(folder / "key.pem")
    other.private_key_pem.write_to_path(folder / "other.pem")
    key = load_pem_private_key(mine.private_key_pem.bytes(), None)
    (folder / "locked.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    (folder / "empty.pem").touch()
    return folder


def test_a_certificate_and_its_key_serve_tls_1_2_and_later(files: Path) -> None:
    context = load(f"{files}/cert.pem", f"{files}/key.pem")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("absent.pem", "key.pem", "SECKILL_TLS_CERT: .*/absent.pem cannot be read: No such file"),
        ("empty.pem", "key.pem", "SECKILL_TLS_CERT: .*/empty.pem holds no certificate"),
        ("key.pem", "key.pem", "SECKILL_TLS_CERT: .*/key.pem holds no certificate"),
        ("cert.pem", "absent.pem", "SECKILL_TLS_KEY: .*/absent.pem cannot be read: No such file"),
        ("cert.pem", ".", "SECKILL_TLS_KEY: .* cannot be read: Is a directory"),
        ("cert.pem", "empty.pem", "SECKILL_TLS_KEY: .*/empty.pem holds no private key"),
        ("cert.pem", "cert.pem", "SECKILL_TLS_KEY: .*/cert.pem holds no private key"),
        ("cert.pem", "other.pem", "SECKILL_TLS_KEY: .*/other.pem is not the key of the cert"),
        ("cert.pem", "locked.pem", "SECKILL_TLS_KEY: .*/locked.pem is encrypted"),
    ],
)
def test_the_file_at_fault_is_named(files: Path, cert: str, key: str, message: str) -> None:
    with pytest.raises(BadSettings, match=message) as caught:
        load(f"{files}/{cert}", f"{files}/{key}")
    assert caught.value.__cause__  # a usage error to the command line: exit code 2
