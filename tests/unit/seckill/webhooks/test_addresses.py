"""Where a webhook may go: an endpoint is no way into the shop's own network."""

from __future__ import annotations

import socket

import pytest

from seckill.errors import UserMistake
from seckill.webhooks.addresses import check_url, guarded_sockets, why_refused

PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"]
PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),  # noqa: S104
    *("169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1"),
    *("::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "2001:db8::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_fine(address: str) -> None:
    assert why_refused(address, private_allowed=False, is_http=False) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_any_other_address_is_refused_until_it_is_allowed(address: str) -> None:
    refused = why_refused(address, private_allowed=False, is_http=False)
    assert refused is not None
    assert "SECKILL_WEBHOOK_PRIVATE" in refused
    assert why_refused(address, private_allowed=True, is_http=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_http_goes_to_no_public_address(address: str) -> None:
    refused = why_refused(address, private_allowed=True, is_http=True)
    assert refused is not None
    assert "give https" in refused


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("::ffff:10.0.0.1", 80, 0, 0)])
def test_no_socket_is_made_for_a_refused_address(address: tuple[object, ...]) -> None:
    make = guarded_sockets(private_allowed=False, is_http=False)
    with pytest.raises(OSError, match="no public address"):
        make((socket.AF_INET, socket.SOCK_STREAM, 0, "", address))


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/hook",
        "https://shop.example:8443/hook?shop=1",
        "https://93.184.216.34/",
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/",
    ],
)
def test_an_https_address_is_taken(url: str) -> None:
    assert check_url(url, private_allowed=False).startswith("https://")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://shop.example/hook", "http can be read"),
        ("http://127.0.0.1:9000/", "http can be read"),
        ("https://127.0.0.1/", "no public address"),
        ("https://[::1]/", "no public address"),
        ("https://ann:secret@shop.example/", "no user"),
        ("https://shop.example/#part", "# part"),
        ("https://shop.example:0/", "port"),
        ("https://shop.example:99999/", "no URL"),
        ("https:///hook", "give an address"),
        ("shop.example/hook", "give an address"),
        ("ftp://shop.example/", "give an address"),
        ("", "give an address"),
        ("https://shop.example/\nX: y", "give an address"),
        ("https://[::1/", "no URL"),
        ("https://shop.example/" + "a" * 2048, "at most 2048"),
    ],
)
def test_any_other_text_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(UserMistake, match=why):
        check_url(url, private_allowed=False)


def test_private_addresses_and_http_to_them_are_taken_where_that_is_allowed() -> None:
    for url in ("http://127.0.0.1:9000/", "https://10.0.0.1/", "http://shop.internal/"):
        assert check_url(url, private_allowed=True) == url
    with pytest.raises(UserMistake, match="give https"):
        check_url("http://93.184.216.34/", private_allowed=True)
