"""The address of Redis: one server, the master that sentinels name, or a cluster.

`redis://user:password@host:6379/0`, `redis+sentinel://user:password@one,two,three/shop?db=0` and
`redis+cluster://user:password@one,two,three`; with `rediss` in place of `redis` by TLS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlencode

from config.addresses import Address, Host, check_files, parse_address


class RedisTopology(StrEnum):
    """How many servers stand behind an address, and how the right one is found."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


SCHEMES = {
    "redis": RedisTopology.SERVER,
    "rediss": RedisTopology.SERVER,
    "unix": RedisTopology.SERVER,
    "redis+sentinel": RedisTopology.SENTINEL,
    "rediss+sentinel": RedisTopology.SENTINEL,
    "redis+cluster": RedisTopology.CLUSTER,
    "rediss+cluster": RedisTopology.CLUSTER,
}
#: Options of TLS, under the names that redis-py gives them.
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS = (*TLS_FILES, "ssl_ca_path", "ssl_cert_reqs", "ssl_check_hostname", "ssl_password")
OF_SENTINELS = ("db", "sentinel_user", "sentinel_password")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """The parts of the address. Its text never shows a password."""

    topology: RedisTopology
    #: The hosts of the sentinels, or some nodes of the cluster.
    address: Address
    #: The name that the sentinels give the master.
    master: str = ""
    database: int = 0
    tls: dict[str, str] = field(default_factory=dict)
    #: `user:password` for the sentinels themselves, or nothing.
    sentinel_user: str = ""

    def __str__(self) -> str:
        return str(self.address)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Return the hosts as written."""
        return self.address.hosts

    def url_of_server(self, host: Host) -> str:
        """Return the address of one server of Redis alone."""
        return self._url(host, self.address.user, f"/{self.database}")

    def url_of_sentinel(self, host: Host) -> str:
        """Return the address of one sentinel alone."""
        return self._url(host, self.sentinel_user, "")

    def _url(self, host: Host, user: str, path: str) -> str:
        scheme = self.address.scheme.partition("+")[0]
        query = f"?{urlencode(self.tls)}" if self.tls else ""
        return f"{scheme}://{user}{'@' if user else ''}{host}{path}{query}"


def parse_redis_url(text: str) -> RedisUrl:
    """Parse the address; raise ValueError, whose text shows no part of a password."""
    address = parse_address(text)
    topology = SCHEMES.get(address.scheme)
    if topology is None:
        raise ValueError(f"an address that begins with one of {', '.join(SCHEMES)} is needed")
    if topology is RedisTopology.SERVER:
        if len(address.hosts) > 1:
            raise ValueError(
                "one host is needed here, not a list; several are written as "
                "redis+sentinel://one,two,three/master or redis+cluster://one,two,three"
            )
        check_files(_query(address), TLS_FILES)
        database = address.rest.partition("?")[0].strip("/")
        if address.scheme != "unix" and database and not database.isdecimal():
            raise ValueError("the number of the database follows the host: redis://host:6379/0")
        return RedisUrl(topology, address)
    if not address.hosts:
        raise ValueError("name at least one host")
    path = unquote(address.rest.partition("?")[0].strip("/"))
    options = _query(address)
    tls = _tls(address, options, OF_SENTINELS if topology is RedisTopology.SENTINEL else ())
    if topology is RedisTopology.CLUSTER:
        if path not in ("", "0"):
            raise ValueError("a cluster has the database 0 alone: write nothing behind the hosts")
        return RedisUrl(topology, address, tls=tls)
    if not path or "/" in path:
        raise ValueError(
            "the name of the master follows the hosts: redis+sentinel://one,two,three/master"
        )
    user = ":".join(options.get(name, "") for name in OF_SENTINELS[1:])
    if not (database := options.get("db", "0")).isdecimal():
        raise ValueError("db is not a number")
    return RedisUrl(topology, address, path, int(database), tls, user.strip(":") and user)


def _query(address: Address) -> dict[str, str]:
    return dict(parse_qsl(address.rest.partition("?")[2].partition("#")[0]))


def _tls(address: Address, options: dict[str, str], others: tuple[str, ...]) -> dict[str, str]:
    """Return the options of TLS; refuse what would be ignored."""
    for name in options.keys() - {*TLS, *others}:
        raise ValueError(f"the option {name!r} is none of: {', '.join((*others, *TLS))}")
    found = {name: value for name, value in options.items() if name in TLS}
    if found and not address.scheme.startswith("rediss"):
        raise ValueError(f"the option {min(found)!r} needs TLS: begin with rediss")
    check_files(found, TLS_FILES)
    return found
