"""Settings of the public edge that are lists: comma-separated text, checked item by item."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator
from pydantic_settings import NoDecode

Network = IPv4Network | IPv6Network

#: What browsers send as Origin: lower case, no path, no default port.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?")
_DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")
ANY_ORIGIN = "*"


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse addresses and networks; ValueError says which item cannot be used and why."""
    return tuple(_network(item) for item in _items(text))


def parse_origins(text: str) -> frozenset[str]:
    """Parse the origins of web pages, or `*` alone; ValueError says which one cannot be used."""
    origins = frozenset(_items(text))
    if ANY_ORIGIN in origins and len(origins) > 1:
        raise ValueError("* stands for every origin, so it stands alone")
    for origin in origins - {ANY_ORIGIN}:
        if not _ORIGIN.fullmatch(origin) or _DEFAULT_PORT.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin as browsers send it: "
                "scheme://host or scheme://host:port, in lower case, without path or default port"
            )
    return origins


# NoDecode: pydantic-settings would take a list for JSON. A default is no text, so it is not parsed.
_AS_IT_IS = Field(validate_default=False)
Networks = Annotated[tuple[Network, ...], NoDecode, PlainValidator(parse_networks), _AS_IT_IS]
Origins = Annotated[frozenset[str], NoDecode, PlainValidator(parse_origins), _AS_IT_IS]


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _network(item: str) -> Network:
    network = ip_network(item)  # its ValueError names the item: "has host bits set", say
    if network.prefixlen == 0:
        raise ValueError(f"{item} is everybody, and then every client chooses its address")
    if network.version == 6 and network.network_address.ipv4_mapped:
        raise ValueError(f"{item}: write it as an IPv4 network")
    return network


def _of(*schemes: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not text:  # not configured
            return text
        url = urlsplit(text)
        if url.scheme not in schemes:
            known = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"an address that begins with {known} is needed")
        try:
            url.port  # noqa: B018 - parsed when it is asked for
        except ValueError:  # whose text may hold a part of a password that has a "/" in it
            raise ValueError("the port is not a number; write / in a password as %2F") from None
        return text

    return check


RedisUrl = Annotated[str, AfterValidator(_of("redis", "rediss", "unix"))]
AmqpUrl = Annotated[str, AfterValidator(_of("amqp", "amqps"))]
PostgresDsn = Annotated[str, AfterValidator(_of("postgresql", "postgres"))]
HttpUrl = Annotated[str, AfterValidator(_of("http", "https"))]


DELAY_QUEUE = "delay_queue"
KEY_EXPIRY = "key_expiry"
WAYS = (DELAY_QUEUE, KEY_EXPIRY)


def parse_timeouts(text: str) -> frozenset[str]:
    """Parse a comma-separated list of ways; ValueError names what is none."""
    ways = frozenset(item.strip() for item in text.split(",") if item.strip())
    for way in ways - set(WAYS):
        raise ValueError(f"{way!r} is none of: {', '.join(WAYS)}")
    return ways


# NoDecode: pydantic-settings would take a list for JSON. A default is no text, so it is not parsed.
Timeouts = Annotated[
    frozenset[str], NoDecode, PlainValidator(parse_timeouts), Field(validate_default=False)
]
