"""The address by which a client is counted.

`X-Forwarded-For` is text that any client can send. Each proxy appends the address that it saw, so
the list is true from its right end up to the first address that is not one of our proxies. That
address is the client's, and what stands to its left is whatever the client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web

from config.field_types import Network

TRUSTED_PROXIES = web.AppKey("trusted_proxies", tuple[Network, ...])

#: An IPv6 subscriber has at least a /64: they could choose these bits anew for each request.
HOST_BITS = 64
#: Addresses whose reading is remembered: proxies, and clients that come again within seconds.
REMEMBERED = 4096

Address = IPv4Address | IPv6Address

#: "[v6]", "[v6]:port", "v4", "v4:port"; anything else is taken for a bare IPv6 address.
_FORM = re.compile(r"\[(.*)\](?::\d+)?|([^:]*)(?::\d+)?|(.*)")


def address_of(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address of the client behind `peer`, for IPv6 its /64; "" if there is none.

    `forwarded` are the lines of X-Forwarded-For in their order. An entry that is no address ends
    the search: the proxy that passed it on is counted.
    """
    if not trusted and peer[:1].isdigit() and ":" not in peer:
        return peer  # IPv4, as nearly always
    address, name = _read(peer)
    rest = ",".join(forwarded)
    while rest and address and any(address in network for network in trusted):
        rest, _, entry = rest.rpartition(",")
        hop, hop_name = _read(entry.strip())
        if hop is None:
            break
        address, name = hop, hop_name
    return name


@lru_cache(REMEMBERED)
def _read(text: str) -> tuple[Address | None, str]:
    """Return the address that is written there and the name by which it is counted."""
    form = _FORM.fullmatch(text)
    try:
        address = ip_address(form[form.lastindex or 0]) if form else None
    except ValueError:
        address = None
    if isinstance(address, IPv6Address):
        if not address.ipv4_mapped:
            subscriber = IPv6Address(int(address) >> HOST_BITS << HOST_BITS)
            return address, f"{subscriber}/{128 - HOST_BITS}"
        address = address.ipv4_mapped  # how a socket of both families names an IPv4 peer
    return address, str(address or "")
