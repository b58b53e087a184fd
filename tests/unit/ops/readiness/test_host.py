"""A certificate's dates against those of a sale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ops.readiness.host import certificate
from seckill.sales.sales import Sale


def write(path: Path, begins: datetime, ends: datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return str(path)


@pytest.mark.parametrize(
    ("begins_days", "ends_days", "status"),
    [(-1, 60, "ok"), (-1, 12, "warn"), (-1, 1, "fail"), (-9, -1, "fail"), (1, 60, "fail")],
)
def test_a_certificate_has_to_outlast_the_sale(
    tmp_path: Path, begins_days: int, ends_days: int, status: str
) -> None:
    now = datetime.now(UTC)
    path = write(
        tmp_path / "cert.pem", now + timedelta(days=begins_days), now + timedelta(days=ends_days)
    )
    sale = Sale(
        "s", 1, 100, 1, None, now + timedelta(days=2), 900, 0, "open", True, False, 10, 1, "EUR"
    )
    found = certificate(path, sale)
    assert found.status == status
    assert (found.do == "") == (status == "ok")


def test_no_certificate_outlasts_a_sale_that_closes_in_the_last_year(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    path = write(tmp_path / "cert.pem", now - timedelta(days=1), now + timedelta(days=60))
    never = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    sale = Sale("s", 1, 100, 1, None, never, 900, 0, "open", True, False, 10, 1, "EUR")
    assert certificate(path, sale).status == "fail"


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    path.write_text("nothing")
    sale = Sale("s", 1, 100, 1, None, None, 900, 0, "open", True, False, 10, 1, "EUR")
    for name in (path, tmp_path / "missing.pem"):
        found = certificate(str(name), sale)
        assert found.status == "fail"
        assert str(name) in found.said
