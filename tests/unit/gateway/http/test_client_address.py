"""The client's address: proxies are believed, clients are not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.field_types import parse_networks
from gateway.http.client_address import address_of

TRUSTED = parse_networks("10.0.0.0/8, 192.0.2.7, 2001:db8:aaaa::/48")


def is_trusted(address: IPv4Address | IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in network for network in TRUSTED)


proxies = st.one_of(
    st.ip_addresses(network=ip_network("10.0.0.0/8")),
    st.ip_addresses(network=ip_network("2001:db8:aaaa::/48")),
    st.just(ip_address("::ffff:192.0.2.7")),
)
clients = st.ip_addresses().filter(lambda address: not is_trusted(address))
#: What an attacker may write: anything, and things that look as if a proxy had written them.
forged = st.lists(
    st.one_of(
        st.text(),
        st.lists(st.one_of(proxies, st.ip_addresses()).map(str), max_size=3).map(", ".join),
        st.sampled_from(["", ",", "unknown", "[::1", "10.0.0.1,", "::ffff:10.0.0.1", "_x:80"]),
    ),
    max_size=4,
)


def written(address: IPv4Address | IPv6Address) -> st.SearchStrategy[str]:
    """The ways in which proxies write an address."""
    if address.version == 4:
        return st.sampled_from([f"{address}", f"{address}:5678", f"::ffff:{address}"])
    return st.sampled_from([f"{address}", f"[{address}]", f"[{address}]:80", f"{address}%eth0"])


@given(peer=clients, lines=forged)
def test_a_client_without_a_proxy_is_counted_by_the_peer_address_whatever_it_writes(
    peer, lines
) -> None:
    assert address_of(str(peer), lines, TRUSTED) == address_of(str(peer), [], ())


@given(st.data(), clients, forged, st.lists(proxies, min_size=1, max_size=3), st.booleans())
def test_behind_proxies_a_client_cannot_choose_its_address(
    data, client, lines, chain, in_one_line
) -> None:
    """Each proxy appends who spoke to it: to the last line, or in a line of its own."""
    hops = [data.draw(written(address)) for address in (client, *chain[:-1])]
    sent = [", ".join([*lines, *hops])] if in_one_line else [*lines, *hops]
    assert address_of(str(chain[-1]), sent, TRUSTED) == address_of(str(client), [], ())


@given(proxies, forged)
def test_whatever_stands_there_an_answer_is_found(peer, lines) -> None:
    found = address_of(str(peer), lines, TRUSTED)
    assert ip_network(found).prefixlen in (32, 64)


@given(st.ip_addresses(network=ip_network("2000::/3")), st.integers(0, 2**64 - 1))
def test_a_subscriber_is_one_client_whatever_address_of_the_network_it_picks(address, low) -> None:
    other = IPv6Address(int(address) >> 64 << 64 | low)
    neighbour = IPv6Address(int(address) ^ 1 << 64)
    assert address_of(str(other), [], ()) == address_of(str(address), [], ())
    assert address_of(str(neighbour), [], ()) != address_of(str(address), [], ())


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),  # a proxy that speaks for itself
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.4"], "198.51.100.4"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.4"], "198.51.100.4"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.4", "10.9.9.9,192.0.2.7"], "198.51.100.4"),
        ("10.0.0.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),  # proxies alone: the farthest
        ("10.0.0.1", ["6.6.6.6, unknown, 10.2.2.2"], "10.2.2.2"),  # malformed: the hop before it
        ("10.0.0.1", ["6.6.6.6,, 10.2.2.2"], "10.2.2.2"),
        ("10.0.0.1", ["198.51.100.4:5678"], "198.51.100.4"),
        ("10.0.0.1", ["198.51.100.4:http"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8:1:2:3::4]:80"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::/64"),
        ("10.0.0.1", ["[::1"], "10.0.0.1"),
        ("10.0.0.1", ["::ffff:198.51.100.4"], "198.51.100.4"),
        ("::ffff:10.0.0.1", ["198.51.100.4"], "198.51.100.4"),
        ("198.51.100.4", ["6.6.6.6"], "198.51.100.4"),
        ("", ["6.6.6.6"], ""),
        ("/run/seckill.sock", ["6.6.6.6"], ""),
    ],
)
def test_the_list_is_read_from_the_right_and_only_as_far_as_proxies_wrote_it(
    peer: str, lines: list[str], client: str
) -> None:
    assert address_of(peer, lines, TRUSTED) == client


@pytest.mark.parametrize(
    ("trusted", "peer", "client"),
    [
        ((), "198.51.100.4", "198.51.100.4"),
        ((), "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ((), "::ffff:198.51.100.4", "198.51.100.4"),
        ((), "/run/seckill.sock", ""),
        ((), "", ""),
        (TRUSTED, "10.0.0.1", "203.0.113.9"),
        (TRUSTED, "198.51.100.4", "198.51.100.4"),
    ],
)
def test_lines_count_only_when_a_proxy_is_trusted(trusted, peer: str, client: str) -> None:
    assert address_of(peer, ["6.6.6.6", "203.0.113.9"], trusted) == client
