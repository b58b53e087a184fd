"""Redis by TLS, with a certificate authority of our own and a certificate for the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trustme
from redis.exceptions import RedisError

from ops.processes.ports import free_port
from ops.stack.discovery import require
from seckill.adapters import namespace
from seckill.adapters import redis as redis_client
from seckill.adapters.redis_slots import SLOTS
from seckill.errors import UserMistake
from tests.processes import eventually

CA = trustme.CA()


def write(folder: Path, ca: trustme.CA, name: str) -> dict[str, str]:
    """Write a certificate with its key and its authority; return the options that name them."""
    files = {part: str(folder / f"{name}-{part}.pem") for part in ("ca", "cert", "key")}
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(files["ca"])
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    return {
        "ssl_ca_certs": files["ca"],
        "ssl_certfile": files["cert"],
        "ssl_keyfile": files["key"],
    }


@pytest.fixture
def mine(tmp_path: Path) -> dict[str, str]:
    return write(tmp_path, CA, "mine")


@pytest.fixture
async def url_of(tmp_path: Path, mine: dict[str, str]) -> AsyncIterator[Callable[..., str]]:
    """Run a cluster of one node by TLS; gives a maker of its addresses."""
    port = free_port()
    settings = {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": mine["ssl_certfile"],
        "tls-key-file": mine["ssl_keyfile"],
        "tls-ca-cert-file": mine["ssl_ca_certs"],
        "dir": str(tmp_path),
        "save": "",
        "cluster-enabled": "yes",
        "cluster-port": str(free_port()),
        "cluster-announce-ip": "127.0.0.1",
        "tls-cluster": "yes",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    process = await asyncio.create_subprocess_exec(
        require("redis"), *words, stdout=asyncio.subprocess.DEVNULL
    )

    def url(scheme: str, options: dict[str, str]) -> str:
        return f"{scheme}://127.0.0.1:{port}?{urlencode(options)}"

    async def takes_slots() -> bool:
        async with redis_client.connect(url("rediss", mine), timeout_s=5) as client:
            with suppress(RedisError):
                await client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
            with suppress(RedisError):
                return bool(await client.set("ready", "yes"))
        return False

    try:
        await eventually(takes_slots, "the node has all slots")
        yield url
    finally:
        process.kill()
        await process.wait()
        namespace.use_cluster(False)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
async def test_the_certificates_of_the_address_are_used(
    url_of: Callable[..., str], mine: dict[str, str], scheme: str
) -> None:
    async with redis_client.connect(url_of(scheme, mine), timeout_s=5) as client:
        await client.set("a", "b")
        assert await client.get("a") == b"b"


async def test_who_has_no_certificate_or_trusts_another_authority_is_refused(
    url_of: Callable[..., str], mine: dict[str, str], tmp_path: Path
) -> None:
    theirs = write(tmp_path, trustme.CA(), "theirs")
    nothing = {"ssl_ca_certs": mine["ssl_ca_certs"]}
    for options in (nothing, theirs, mine | {"ssl_ca_certs": theirs["ssl_ca_certs"]}):
        async with redis_client.connect(url_of("rediss", options), timeout_s=5) as client:
            with pytest.raises(RedisError):
                await client.get("a")


def test_a_file_that_cannot_be_read_is_named(mine: dict[str, str]) -> None:
    url = f"rediss://:s3cr3t@127.0.0.1/0?{urlencode(mine | {'ssl_ca_certs': '/nowhere/ca.pem'})}"
    with pytest.raises(UserMistake, match=r"/nowhere/ca\.pem") as refused:
        redis_client.connect(url, timeout_s=5)
    assert "s3cr3t" not in str(refused.value)
