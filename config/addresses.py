"""The address of a store: a URL, in which there may be several hosts.

`postgresql://user:password@one:5432,[2001:db8::2]:5432/shop`. The standard parser of URLs knows no
lists, and newer versions of it refuse some of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

#: Scheme, user and password, hosts, and the rest. A password with a "/" ends the hosts too early.
_URL = re.compile(r"([A-Za-z+]+)://(?:([^/?#]*)@)?([^/?#]*)(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\[\]:]+))(?::(\d{1,5}))?")
PORT_MAX = 65_535
DEFAULT_PORTS = {
    "redis": 6379,
    "rediss": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
    "redis+cluster": 6379,
    "rediss+cluster": 6379,
    "amqp": 5672,
    "amqps": 5671,
}
POSTGRESQL_PORT = 5432


@dataclass(frozen=True, slots=True, order=True)
class Host:
    """A host and its port; as text, `[::1]:5432` for IPv6."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL. Its text never shows the password."""

    scheme: str
    #: `user:password`, as written, or nothing.
    user: str
    #: Nothing if the URL leaves the host to a default or to its query, as for a unix socket.
    hosts: tuple[Host, ...]
    #: Path, query and fragment.
    rest: str

    def __str__(self) -> str:
        return ",".join(map(str, self.hosts)) or self.query("host") or "localhost"

    def url_of(self, host: Host) -> str:
        """Return the URL of one of the hosts alone."""
        return f"{self.scheme}://{self.user}{'@' if self.user else ''}{host}{self.rest}"

    def query(self, name: str) -> str:
        """Return a value of the query, or nothing."""
        found = parse_qs(self.rest.partition("?")[2].partition("#")[0]).get(name)
        return found[-1] if found else ""


def parse_address(url: str) -> Address:
    """Parse a URL; raise ValueError, whose text shows no part of a password."""
    found = _URL.fullmatch(url)
    if not found:
        raise ValueError("an address is written as scheme://user:password@host:port/name")
    scheme, user, hosts, rest = found.groups()
    if "@" in rest:
        # The user and password end later than a parser of URLs sees.
        raise ValueError("write / in a password as %2F, ? as %3F, # as %23 and @ as %40")
    query = rest.partition("#")[0].partition("?")[2]
    if query and not all("=" in option for option in query.split("&")):
        raise ValueError("what follows the ? is written as name=value&name=value")
    default_port = DEFAULT_PORTS.get(scheme, POSTGRESQL_PORT)
    names = hosts.split(",") if hosts else []
    return Address(scheme, user or "", tuple(_host(name, default_port) for name in names), rest)


def check_files(options: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise ValueError if one of these options names a file by a relative path."""
    for name in names:
        if (file := options.get(name)) and not Path(file).is_absolute():
            raise ValueError(
                f"the file of {name} must be an absolute path, because processes run in other "
                "directories"
            )


def _host(text: str, default_port: int) -> Host:
    found = _HOST.fullmatch(text)
    if not found:
        # Not the text itself: it may be a part of a password that has a "/" in it.
        raise ValueError(
            "a port is not a number, or a host has no name; write / in a password as %2F, "
            "and an IPv6 address in brackets: [::1]:5432"
        )
    ipv6, name, port = found.groups()
    if port and not 0 < int(port) <= PORT_MAX:
        raise ValueError(f"a port is not between 1 and {PORT_MAX}")
    return Host(ipv6 or name, int(port) if port else default_port)
