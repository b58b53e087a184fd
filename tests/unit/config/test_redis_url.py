"""Addresses of Redis: a server, the master of some sentinels, a cluster."""

from __future__ import annotations

import pytest

from config.addresses import Host
from config.redis_url import RedisTopology, parse_redis_url
from config.settings import BadSettings, load_settings


def test_sentinels_name_a_master() -> None:
    url = parse_redis_url(
        "rediss+sentinel://shop:p%40ss@one,[::1]:26380/main?db=2&sentinel_password=s"
        "&ssl_ca_certs=/ca.pem"
    )
    assert (url.topology, url.master, url.database) == (RedisTopology.SENTINEL, "main", 2)
    assert url.hosts == (Host("one", 26379), Host("::1", 26380))
    assert url.url_of_server(Host("two", 6379)) == (
        "rediss://shop:p%40ss@two:6379/2?ssl_ca_certs=%2Fca.pem"
    )
    assert url.url_of_sentinel(url.hosts[0]) == "rediss://:s@one:26379?ssl_ca_certs=%2Fca.pem"
    assert str(url) == "one:26379,[::1]:26380"


def test_a_cluster_has_nodes() -> None:
    url = parse_redis_url("redis+cluster://shop:secret@one,two:7000/0")
    assert (url.topology, url.hosts) == (
        RedisTopology.CLUSTER,
        (Host("one", 6379), Host("two", 7000)),
    )
    assert url.url_of_server(url.hosts[1]) == "redis://shop:secret@two:7000/0"


@pytest.mark.parametrize("url", ["redis://u:p@h:1/3?ssl_ca_certs=/x", "unix:///run/redis.sock"])
def test_one_server_is_as_before(url: str) -> None:
    assert parse_redis_url(url).topology is RedisTopology.SERVER


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://u:secret@one,two/0", "several are written as redis+sentinel://"),
        ("redis+sentinel://u:secret@one,two", "the name of the master follows the hosts"),
        ("redis+sentinel://u:secret@one/main?db=x", "db is not a number"),
        ("redis+sentinel:///main", "name at least one host"),
        ("redis+cluster://u:secret@one/1", "a cluster has the database 0 alone"),
        ("redis+cluster://u:secret@one?db=1", "the option 'db' is none of"),
        ("redis+cluster://u:secret@one?ssl_ca_certs=/ca.pem", "needs TLS: begin with rediss"),
        ("rediss+cluster://u:secret@one?ssl_ca_certs=ca.pem", "must be an absolute path"),
        ("rediss://u:secret@one?ssl_keyfile=key.pem", "must be an absolute path"),
        ("redis://u:secret@one/abc", "redis://host:6379/0"),
        ("redis+other://u:secret@one", "an address that begins with one of redis, rediss, unix"),
        (f"redis+cluster://u:secret@{','.join('abcdefghi')}", "name at most 8 hosts"),
    ],
)
def test_a_mistake_is_named_in_one_line_without_the_password(
    url: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECKILL_REDIS_URL", url)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    line = str(refused.value)
    assert says in line
    assert "SECKILL_REDIS_URL" in line
    assert "secret" not in line
    assert "\n" not in line


def test_a_cluster_announces_no_keys_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_REDIS_URL", "redis+cluster://one")
    monkeypatch.setenv("SECKILL_TIMEOUTS", "key_expiry")
    with pytest.raises(BadSettings, match="key_expiry does not work with a cluster"):
        load_settings()
