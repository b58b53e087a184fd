"""Addresses of stores: lists of hosts, IPv6, and no password in any text."""

from __future__ import annotations

import pytest

from config.addresses import Host, parse_address


@pytest.mark.parametrize(
    ("url", "hosts", "shown"),
    [
        ("postgresql://u:p@one:1,two:2/db", [("one", 1), ("two", 2)], "one:1,two:2"),
        ("postgresql://u:p@one,two:2/db?a=b", [("one", 5432), ("two", 2)], "one:5432,two:2"),
        (
            "amqp://u:p@[::1]:1,[fe80::1%eth0],three/v",
            [("::1", 1), ("fe80::1%eth0", 5672), ("three", 5672)],
            "[::1]:1,[fe80::1%eth0]:5672,three:5672",
        ),
        ("amqps://one/", [("one", 5671)], "one:5671"),
        ("redis://:p@[::1]:6380/0", [("::1", 6380)], "[::1]:6380"),
        ("postgresql://one", [("one", 5432)], "one:5432"),
        ("postgresql:///db?host=/run/postgresql", [], "/run/postgresql"),
        ("postgresql:///db", [], "localhost"),
    ],
)
def test_hosts_are_found(url: str, hosts: list[tuple[str, int]], shown: str) -> None:
    address = parse_address(url)
    assert list(address.hosts) == [Host(*host) for host in hosts]
    assert str(address) == shown


def test_the_url_of_one_host_keeps_all_the_rest() -> None:
    address = parse_address("amqp://u:a%2Fb@one:1,[::1]:2/v?heartbeat=5")
    assert [address.url_of(host) for host in address.hosts] == [
        "amqp://u:a%2Fb@one:1/v?heartbeat=5",
        "amqp://u:a%2Fb@[::1]:2/v?heartbeat=5",
    ]
    assert address.query("heartbeat") == "5"
    assert address.query("name") == ""


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret/word@one:5432/db",  # where the hosts seem to end
        "postgresql://u:x@secret/word@one:5432/db",
        "postgresql://u:1234/secret@one:5432/db",
        "redis://u:1234#secret@one:5432/0",
        "postgresql://u:x@secret/1?x@one:5432/db",
        "amqp://u:1234?secret=1@one/",
        "redis://u:secret@one/0?option",
        "postgresql://u:secret@one:port/db",
        "postgresql://u:secret@one:0/db",
        "postgresql://u:secret@one:65536/db",
        "postgresql://u:secret@one,,two/db",
        "postgresql://u:secret@::1/db",
        "postgresql://u:secret@[::1/db",
        "u:secret@one",
    ],
)
def test_an_error_says_what_is_wrong_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"a port is|a host has|written as|write /") as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)
