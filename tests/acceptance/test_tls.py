"""TLS by certificate files, on real gateways: served, renewed, refused when they cannot be used."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession, TCPConnector

from config.settings import Settings
from gateway.overload.tls_acceptor import HANDSHAKES_MAX
from ops.processes.child import StartFailed
from tests.processes import Process, Processes, eventually

CA = trustme.CA()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def issue(folder: Path) -> dict[str, str]:
    """Write a new certificate with its key; returns the settings that name them."""
    issued = CA.issue_cert("127.0.0.1", "localhost")
    folder.joinpath("cert.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return {"SECKILL_TLS_CERT": f"{folder}/cert.pem", "SECKILL_TLS_KEY": f"{folder}/key.pem"}


@pytest.fixture
async def secure(processes: Processes, tmp_path: Path) -> Process:
    return await processes.run("gateway", **issue(tmp_path))


@pytest.fixture
async def https(secure: Process) -> AsyncIterator[ClientSession]:
    connector = TCPConnector(ssl=trusting(), limit=1)
    url = secure.url.replace("http:", "https:")
    async with ClientSession(url, connector=connector) as session:
        yield session


async def answers(https: ClientSession) -> bool:
    async with https.get("/v1/sales") as response:
        return response.status == 200


async def certificate_of(process: Process, name: str = "127.0.0.1") -> str:
    """Shake hands as a new client and return the certificate's serial number."""
    port = int(process.url.rpartition(":")[2])
    context = trusting()
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    serial = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.transport.abort()
    return serial


async def test_a_grab_goes_over_https_and_browsers_are_bound_to_it(
    secure: Process, https: ClientSession, open_sale, ticket_for
):
    sale = await open_sale()
    headers = {"Seckill-Ticket": ticket_for(sale, "alice")}
    path = f"/v1/sales/{sale.sale_id}/grabs"
    async with https.post(path, headers=headers, json={"quantity": 1}) as response:
        assert response.status == 202
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    async with https.get("/v1/nothing") as response:
        assert (response.status, "Strict-Transport-Security" in response.headers) == (404, True)
    async with ClientSession() as http, http.get(f"{secure.admin_url}/livez") as response:
        assert response.status == 200  # the admin port stays plain: it is for loopback


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(secure: Process, version: ssl.TLSVersion):
    context = trusting()
    context.minimum_version = context.maximum_version = version
    connector = TCPConnector(ssl=context)
    async with ClientSession(secure.url.replace("http:", "https:"), connector=connector) as https:
        assert await answers(https)


async def test_a_client_without_tls_is_cut_off_and_harms_no_other(
    secure: Process, https: ClientSession, tmp_path: Path
):
    port = int(secure.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)):  # says nothing while others are served
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/sales HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert b"HTTP" not in answer  # at most an alert of TLS
        assert await answers(https)
    assert "Traceback" not in secure.child.spec.log.read_text()


async def test_renewed_files_are_served_after_sighup_and_bad_ones_are_not(
    secure: Process, https: ClientSession, tmp_path: Path
):
    first = await certificate_of(secure)
    assert await answers(https)
    issue(tmp_path)
    assert await certificate_of(secure) == first  # until the signal
    secure.child.send(signal.SIGHUP)

    async def changed():
        return await certificate_of(secure) != first

    await eventually(changed, "the new certificate is served")
    second = await certificate_of(secure, "localhost")  # by name as by address
    assert second == await certificate_of(secure) != first
    (tmp_path / "key.pem").write_text("half written")
    secure.child.send(signal.SIGHUP)

    async def refused():
        return "kept the old certificate: SECKILL_TLS_KEY" in secure.child.spec.log.read_text()

    await eventually(refused, "the log names the bad file")
    assert await certificate_of(secure) == second
    assert await answers(https)  # over the connection of the first certificate


async def test_open_connections_do_not_hold_up_the_end(secure: Process, https: ClientSession):
    port = int(secure.url.rpartition(":")[2])
    assert await answers(https)  # idle from now on
    with socket.create_connection(("127.0.0.1", port)):  # never shakes hands
        await secure.child.stop()
    assert secure.child.describe_end() == "exited with 0"  # not killed


async def test_a_wrong_key_stops_the_start_with_one_line(processes: Processes, tmp_path: Path):
    settings = issue(tmp_path)
    CA.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "key.pem")
    with pytest.raises(StartFailed, match=r"SECKILL_TLS_KEY: .*key.pem is not the key") as failed:
        await processes.run("gateway", **settings)
    assert "exited with 2" in str(failed.value)
    assert "Traceback" not in str(failed.value)


async def test_a_stack_with_a_certificate_prints_an_https_address(
    settings: Settings, tmp_path: Path
):
    environment = {
        **os.environ,
        **issue(tmp_path),
        "SECKILL_HOME": str(tmp_path),
        "SECKILL_REDIS_URL": settings.redis_url,
        "SECKILL_AMQP_URL": settings.amqp_url,
        "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
    }
    up = [sys.executable, "-m", "ops.cli", "up", "--workers", "1", "--consumers", "0", "--json"]
    stack = await asyncio.create_subprocess_exec(
        *up, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert stack.stdout
        environment = json.loads(await asyncio.wait_for(stack.stdout.readline(), 60))
        url = environment["SECKILL_GATEWAY_URL"]
        assert url.startswith("https://127.0.0.1:")
        async with ClientSession(url, connector=TCPConnector(ssl=trusting())) as https:
            assert await answers(https)
    finally:
        stack.terminate()
        await stack.wait()


def gave_way(silent: socket.socket) -> bool:
    """Tell whether it was closed; one whose listening socket was replaced hears it as it speaks."""
    silent.settimeout(20)
    try:
        return silent.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        silent.send(b"\x16")
    try:
        return silent.recv(1) == b""
    except ConnectionResetError:
        return True


async def test_C51_clients_that_never_shake_hands_keep_no_buyer_and_no_operator_out(
    processes, tmp_path
):
    """More of them than there are places for handshakes: the oldest give way."""
    gateway = await processes.run("gateway", **issue(tmp_path))
    port = int(gateway.url.rpartition(":")[2])
    silent = []
    try:
        for n in range(HANDSHAKES_MAX + 500):
            silent.append(socket.create_connection(("127.0.0.1", port)))
            if n % 250 == 0:
                connector = TCPConnector(ssl=trusting(), force_close=True)
                url = gateway.url.replace("http:", "https:")
                async with ClientSession(url, connector=connector) as https:
                    assert await answers(https)
        async with ClientSession(gateway.admin_url) as admin, admin.get("/livez") as response:
            assert response.status == 200
        assert gave_way(silent[0])
    finally:
        for each in silent:
            each.close()
