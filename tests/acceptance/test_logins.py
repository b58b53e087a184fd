"""Logins by public keys, at a real gateway: of a login service, and in PEM."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.login_service import KINDS, LoginService, login_service
from tests.processes import Process, eventually


@pytest.fixture
async def service() -> AsyncIterator[LoginService]:
    async with login_service(*KINDS) as running:
        yield running


async def ticket(gateway: Process, sale, login: dict[str, str]) -> tuple[int, dict[str, str]]:
    async with (
        ClientSession(gateway.url, headers=login) as http,
        http.post(f"/v1/sales/{sale.sale_id}/tickets") as response,
    ):
        return response.status, await response.json(content_type=None)


async def health(gateway: Process) -> tuple[int, dict]:
    async with ClientSession(gateway.admin_url) as http, http.get("/readyz") as response:
        return response.status, await response.json()


async def test_a_gateway_takes_logins_of_a_login_service_that_was_away_when_it_started(
    processes, service, open_sale
):
    sale = await open_sale()
    gateway = await processes.run(
        "gateway",
        SECKILL_JWT_KEYS="",
        SECKILL_JWKS_URL=service.url,
        SECKILL_JWT_ISSUER="https://login.example/",
        SECKILL_JWT_AUDIENCE="app, shop",
    )
    claims = {"iss": "https://login.example/", "aud": ["shop", "profile"]}
    login = service.login("auth0|7", "ES256", **claims)
    status, body = await ticket(gateway, sale, login)
    assert (status, body["code"]) == (503, "unavailable"), "nobody can say that it is not good"
    status, report = await health(gateway)
    assert (status, report["status"]) == (200, "degraded")
    assert "SECKILL_JWKS_URL" in report["reasons"]["login_keys"]

    await service.start()

    async def is_ready() -> bool:
        return (await health(gateway))[1]["status"] == "ready"

    await eventually(is_ready, "ready without a restart", within_s=60)
    for algorithm in KINDS:
        status, body = await ticket(gateway, sale, service.login("auth0|7", algorithm, **claims))
        mapped = hashlib.sha256(b"auth0|7").hexdigest()[:48]
        assert (status, body["ticket"].split("~")[2]) == (201, f"hash-{mapped}")
    status, body = await ticket(gateway, sale, service.login("ann", "ES256", aud="shop"))
    assert (status, body["detail"]) == (401, "the login token has no iss")


async def test_a_gateway_takes_logins_by_a_key_in_pem_and_by_its_own(
    processes, service, open_sale, login_for, tmp_path
):
    sale = await open_sale()
    file = tmp_path / "a folder" / "login.pem"
    file.parent.mkdir()
    public = service.keys["RS256"][1].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file.write_bytes(pem)
    gateway = await processes.run("gateway", SECKILL_JWT_PUBLIC_KEY_FILE=str(file))
    for login in (service.login("ann", "RS256"), login_for("ann")):
        status, body = await ticket(gateway, sale, login)
        assert (status, body["ticket"].split("~")[2]) == (201, "ann")
    status, _ = await ticket(gateway, sale, service.login("ann", "ES256"))
    assert status == 401


async def test_a_gateway_with_an_unusable_key_says_so_and_does_not_start(processes):
    code, _, said = await processes.ask("gateway", SECKILL_JWT_PUBLIC_KEY="not a key")
    assert code != 0
    assert "SECKILL_JWT_PUBLIC_KEY: give 1 to 4 public keys in PEM" in said
    assert "Traceback" not in said
