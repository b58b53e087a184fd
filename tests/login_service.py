"""A login service: it publishes its keys at an address, and signs logins with any of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ops.processes.ports import free_port

#: Algorithm -> how to make a private key for it, and what writes the public one.
KINDS: dict[str, tuple[Any, Any]] = {
    "RS256": (lambda: rsa.generate_private_key(65_537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


class LoginService:
    """Keys by name, all of which are published; `reads` counts how often they were asked for."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/jwks"
        self.keys: dict[str, tuple[str, Any]] = {}
        self.reads = 0
        #: What is answered instead of the keys.
        self.answer: web.Response | None = None
        self._runner: web.AppRunner | None = None

    def add(self, kid: str, algorithm: str) -> None:
        """Make a key and publish it."""
        self.keys[kid] = (algorithm, KINDS[algorithm][0]())

    def login(self, buyer: object, kid: str, **claims: object) -> dict[str, str]:
        """Make the headers of a buyer who is logged in."""
        algorithm, private = self.keys[kid]
        said = {"sub": buyer, "exp": int(time.time()) + 3600, **claims}
        return {"Authorization": f"Bearer {jwt.encode(said, private, algorithm, {'kid': kid})}"}

    async def start(self) -> None:
        """Answer at the address."""
        app = web.Application()
        app.router.add_get("/jwks", self._publish)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Answer no longer; the keys stay."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _publish(self, _: web.Request) -> web.Response:
        self.reads += 1
        if self.answer is not None:
            return self.answer
        keys = [
            {"kid": kid, "use": "sig", **_public_jwk(algorithm, private)}
            for kid, (algorithm, private) in self.keys.items()
        ]
        return web.json_response({"keys": keys})


def _public_jwk(algorithm: str, private: Any) -> dict[str, Any]:
    written = KINDS[algorithm][1].to_jwk(private.public_key(), as_dict=True)
    return {name: value for name, value in written.items() if name != "key_ops"}


@asynccontextmanager
async def login_service(*keys: str) -> AsyncIterator[LoginService]:
    """Run a login service with a key of each algorithm, named like it."""
    service = LoginService()
    for algorithm in keys:
        service.add(algorithm, algorithm)
    try:
        yield service
    finally:
        await service.stop()
