"""Types of settings that are text in the environment: lists with commas, and addresses.

A bad text raises ValueError, which says what is wrong and shows no password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator
from pydantic_settings import NoDecode

from config.addresses import check_files, parse_address
from config.redis_url import parse_redis_url

Network = IPv4Network | IPv6Network

ANY_ORIGIN = "*"
#: The ways in which an order's time to pay ends (docs/adr/0007-timeouts.md).
DELAY_QUEUE = "delay_queue"
KEY_EXPIRY = "key_expiry"
WAYS = (DELAY_QUEUE, KEY_EXPIRY)

#: Each host that does not answer costs one more timeout before the next is tried.
HOSTS_MAX = 8
#: Which server of several hosts is meant; nothing stands for the one that writes. A store that
#: only reads is of no use here.
SESSION_ATTRS = "target_session_attrs"
SESSIONS = ("", "any", "primary", "read-write")
#: Options of TLS that name files. A client that cannot read one seems to wait for the server.
POSTGRESQL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
AMQP_FILES = ("cafile", "certfile", "keyfile")

#: An Origin as browsers send it: lower case, no path, no default port.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?")
_DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse addresses and networks."""
    return tuple(_network(item) for item in _items(text))


def parse_origins(text: str) -> frozenset[str]:
    """Parse the origins of web pages, or `*` alone."""
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


def parse_timeouts(text: str) -> frozenset[str]:
    """Parse some of WAYS, or none."""
    ways = frozenset(_items(text))
    for way in ways - set(WAYS):
        raise ValueError(f"{way!r} is none of: {', '.join(WAYS)}")
    return ways


def parse_currency(text: str) -> str:
    """Check the code of a currency."""
    from iso4217 import Currency as Known  # here: few set this, and its import takes 20 ms

    known = Known.__members__.get(text)  # `eur` is a second name of EUR
    if known is None or known.code != text or known.exponent is None:
        raise ValueError(f"{text!r} is no currency of ISO 4217; give three letters such as EUR")
    return text


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _network(item: str) -> Network:
    network = ip_network(item)  # its ValueError names the item: "has host bits set", say
    if network.prefixlen == 0:
        raise ValueError(f"{item} is everybody, and then every client chooses its address")
    if network.version == 6 and network.network_address.ipv4_mapped:
        raise ValueError(f"{item}: write it as an IPv4 network")
    return network


def _address(
    *schemes: str, hosts_max: int = 1, files: tuple[str, ...] = ()
) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not text:  # not configured
            return text
        if text.partition("://")[0] not in schemes:
            known = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"an address that begins with {known} is needed")
        address = parse_address(text)
        if len(address.hosts) > hosts_max:
            raise ValueError("one host is needed here, not a list")
        given = {name: address.query(name) for name in files}
        check_files(given, files)
        for name, file in given.items():
            if file and not os.access(file, os.R_OK):
                raise ValueError(f"the file of {name} cannot be read: {file}")
        return text

    return check


def _postgresql(text: str) -> str:
    check = _address("postgresql", "postgres", hosts_max=HOSTS_MAX, files=POSTGRESQL_FILES)
    if (wanted := check(text) and parse_address(text).query(SESSION_ATTRS)) not in SESSIONS:
        raise ValueError(f"{SESSION_ATTRS} {wanted!r} is none of: {', '.join(SESSIONS[1:])}")
    return text


_amqp = _address("amqp", "amqps", hosts_max=HOSTS_MAX, files=AMQP_FILES)


def _redis(text: str) -> str:
    if text and len(parse_redis_url(text).hosts) > HOSTS_MAX:
        raise ValueError(f"name at most {HOSTS_MAX} hosts; the others are found by asking those")
    return text


# pydantic-settings would decode a list as JSON, and validate a default, which is not text.
_DEFAULT = Field(validate_default=False)
Networks = Annotated[tuple[Network, ...], NoDecode, PlainValidator(parse_networks), _DEFAULT]
Origins = Annotated[frozenset[str], NoDecode, PlainValidator(parse_origins), _DEFAULT]
Timeouts = Annotated[frozenset[str], NoDecode, PlainValidator(parse_timeouts), _DEFAULT]

Currency = Annotated[str, AfterValidator(parse_currency)]
RedisUrl = Annotated[str, AfterValidator(_redis)]
AmqpUrl = Annotated[str, AfterValidator(_amqp)]
PostgresDsn = Annotated[str, AfterValidator(_postgresql)]
HttpUrl = Annotated[str, AfterValidator(_address("http", "https"))]
