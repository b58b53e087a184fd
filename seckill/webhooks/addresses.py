"""Where a webhook may go: never to the shop's own network, unless the operator allows that.

Whoever may add an endpoint could else have this host ask services that trust it (server-side
request forgery). A name is checked by the addresses that it leads to, when the connection is made:
a name that was harmless when it was added may lead elsewhere by then.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EACCES
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from yarl import URL

from seckill.errors import UserMistake

URL_MAX = 2048
SETTING = "SECKILL_WEBHOOK_PRIVATE"

#: IPv6 addresses that a gateway turns into the IPv4 address in their last 32 bits.
_NAT64 = IPv6Network("64:ff9b::/96")


def check_url(text: str, *, private_allowed: bool) -> str:
    """Return the address of an endpoint, or raise UserMistake saying what is wrong with it."""
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise UserMistake(f"{text!r} is no URL: {error}") from error
    if url.scheme not in ("https", "http") or not url.host or not text.isprintable():
        raise UserMistake(f"{text!r}: give an address that begins with https:// and a host")
    if url.scheme == "http" and not private_allowed:
        raise UserMistake(
            f"{text}: http can be read on its way; give an https address (http to private "
            f"addresses: {SETTING}=true)"
        )
    if url.user is not None or url.password is not None or url.raw_fragment:
        raise UserMistake(
            f"{text}: an endpoint has no user, password or # part; requests are signed instead"
        )
    if len(text) > URL_MAX or not port:
        raise UserMistake(f"the address has to have a port, and at most {URL_MAX} characters")
    if _is_address(url.host):
        guard = why_refused(url.host, private_allowed=private_allowed, is_http=url.scheme == "http")
        if guard:
            raise UserMistake(f"{text}: {guard}")
    return str(url)


def why_refused(address: str, *, private_allowed: bool, is_http: bool) -> str | None:
    """Return why nothing is sent to an IP address; None if it may be."""
    if _is_public(_real(ip_address(address.partition("%")[0]))):
        return f"{address} is public: give https" if is_http else None
    if private_allowed:
        return None
    return f"{address} is no public address ({SETTING}=true allows it)"


def guarded_sockets(
    *, private_allowed: bool, is_http: bool
) -> Callable[[tuple[Any, ...]], socket.socket]:
    """Return what makes the sockets of a connector; it raises OSError for an address to refuse.

    aiohttp calls it for each address that it is about to connect to, whether the URL has a name or
    the address itself; there is nothing between this check and the connection.
    """

    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        refused = why_refused(address[0], private_allowed=private_allowed, is_http=is_http)
        if refused:
            raise PermissionError(EACCES, refused)
        return socket.socket(family, kind, protocol)

    return make


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _real(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved
