"""Stripe for tests: localstripe, a stateful fake that the project did not write, in a process.

Before it stands a server that does what Stripe's documents say and localstripe 1.15 does not:

- It takes `return_url` and `expand[]` of a confirmation; localstripe refuses both.
- `Idempotency-Key`: a repeat gets the first answer, with `Idempotent-Replayed`; another request
  under the key gets 400 `idempotency_error`. localstripe makes a second object.
- `next_action` of a 3-D Secure card is `redirect_to_url`, where there is a `return_url`: a page of
  the bank with two buttons. localstripe knows `use_stripe_sdk` alone.
- A cancelled or confirmed PaymentIntent in a wrong state is refused as
  `payment_intent_unexpected_state`; localstripe says `Bad request`.
- A search of PaymentIntents by metadata. Stripe's is behind by up to a minute, this one is not.
- Refunds beyond what is left are refused; localstripe takes them.
- A declined card has the `type` `card_error`, and its webhook events have the metadata.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web

KEY = "sk_test_12345"
SECRET = "whsec_test"
VISA = "pm_card_visa"
#: Numbers of cards that localstripe knows, by what the bank does.
DECLINED = "4000000000000341"
ASKS = "4000002500003155"
ASKS_THEN_DECLINES = "4000008260003178"

_SERVE = """
import sys
from aiohttp import web
from localstripe import resources, server
resources.Store.dump_to_disk = lambda self: None  # it writes one file for all instances
async def main():
    runner = web.AppRunner(server.app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the test is gone
import asyncio
asyncio.run(main())
"""
_BANK = """<!doctype html><html lang="en"><title>Your bank</title><main><h1>Your bank</h1>
<p>Is it you who pays?</p><form method="post">
<button name="answer" value="yes">Yes</button> <button name="answer" value="no">No</button>
</form></main></html>"""


class LocalStripe:
    """localstripe, and the server before it. `url` is what SECKILL_STRIPE_URL gets."""

    def __init__(self, session: ClientSession, inner: str) -> None:
        self.url = ""
        self.inner = inner
        self._session = session
        self._first: dict[str, tuple[str, int, bytes]] = {}
        self._return_urls: dict[str, str] = {}
        #: What the next requests get instead of an answer: statuses, or 0 for a lost reply.
        self.faults: list[int] = []
        #: Every request that arrived: method, path.
        self.calls: list[tuple[str, str]] = []

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator[LocalStripe]:
        """Serve inside the block."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _SERVE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(await process.stdout.readline())
            async with ClientSession() as session:
                stripe = cls(session, f"http://127.0.0.1:{port}")
                runner = web.AppRunner(stripe.app(), access_log=None, shutdown_timeout=0)
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                stripe.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                try:
                    yield stripe
                finally:
                    await runner.cleanup()
        finally:
            process.stdin.close()
            await process.wait()

    def app(self) -> web.Application:
        """Build the server before it."""
        app = web.Application()
        app.router.add_get("/bank/{id}", self._bank)
        app.router.add_post("/bank/{id}", self._answer_bank)
        app.router.add_get("/v1/payment_intents/search", self._search)
        app.router.add_route("*", "/{path:.*}", self._forward)
        return app

    async def card(self, number: str) -> str:
        """Return the name of a card, as Stripe's script makes it in the browser."""
        fields = {"type": "card", "card[number]": number, "card[cvc]": "123"}
        fields |= {"card[exp_month]": "12", "card[exp_year]": "2040"}
        _, body = await self._ask("POST", "/v1/payment_methods", fields)
        return str(body["id"])

    async def intents(self) -> list[dict[str, Any]]:
        """Return all PaymentIntents, as Stripe's dashboard shows them."""
        _, body = await self._ask("GET", "/v1/payment_intents?limit=100")
        return list(body["data"])

    async def send_webhooks_to(self, url: str) -> None:
        """Send webhooks to an address, signed with SECRET."""
        await self._ask("POST", "/_config/webhooks/gateway", {"url": url, "secret": SECRET})

    async def decide(self, intent_id: str, *, yes: bool) -> None:
        """Answer the bank for the buyer."""
        _, intent = await self._ask("GET", f"/v1/payment_intents/{intent_id}")
        fields = {"client_secret": intent["client_secret"], "success": str(yes).lower()}
        await self._ask("POST", f"/v1/payment_intents/{intent_id}/_authenticate", fields)

    async def _forward(self, request: web.Request) -> web.Response:
        self.calls.append((request.method, request.path))
        body = dict(await request.post())
        wanted = f"{request.method} {request.path} {sorted(body.items())}"
        key = request.headers.get("Idempotency-Key")
        fault = self.faults.pop(0) if self.faults else None
        if fault:
            answer = {"error": {"type": "api_error", "code": f"fault_{fault}"}}
            return web.json_response(answer, status=fault)
        if key in self._first:
            first, status, text = self._first[key]
            if first != wanted:
                return _error(400, "idempotency_error", "")
            replayed = {"Idempotent-Replayed": "true"}
            return web.Response(
                body=text, status=status, content_type="application/json", headers=replayed
            )
        status, answer = await self._changed(request, body)
        text = json.dumps(answer).encode()
        if key and status < 500:
            self._first[key] = (wanted, status, text)
        if fault == 0 and request.transport:  # done, and its answer is lost
            request.transport.abort()
        return web.Response(body=text, status=status, content_type="application/json")

    async def _changed(self, request: web.Request, body: dict[str, Any]) -> tuple[int, Any]:
        intent_id, action = _action_of(request.path)
        body.pop("expand[]", None)
        if return_url := body.pop("return_url", None):
            self._return_urls[intent_id] = str(return_url)
        if refusal := await self._refusal(request, body):
            return 400, refusal
        path = request.path if action else request.path_qs
        status, answer = await self._ask(request.method, path, body or None)
        if "error" in answer and status == 402:
            answer["error"] |= {"type": "card_error", "decline_code": "generic_decline"}
        elif "error" in answer and action:
            answer["error"]["code"] = "payment_intent_unexpected_state"
        return status, self._with_bank(answer)

    async def _refusal(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any] | None:
        if (request.method, request.path) != ("POST", "/v1/refunds"):
            return None
        _, intent = await self._ask("GET", f"/v1/payment_intents/{body['payment_intent']}")
        charge = intent["latest_charge"]
        if int(body["amount"]) <= charge["amount"] - charge["amount_refunded"]:
            return None
        return {"error": {"type": "invalid_request_error", "code": "charge_already_refunded"}}

    def _with_bank(self, answer: dict[str, Any]) -> dict[str, Any]:
        action, intent_id = answer.get("next_action"), answer.get("id", "")
        if action and intent_id in self._return_urls:
            url = {"url": f"{self.url}/bank/{intent_id}"}
            answer["next_action"] = {"type": "redirect_to_url", "redirect_to_url": url}
        return answer

    async def _search(self, request: web.Request) -> web.Response:
        found = re.fullmatch(r"metadata\['(\w+)'\]:'(.*)'", request.query["query"])
        assert found
        name, value = found.groups()
        data = [i for i in await self.intents() if i["metadata"].get(name) == value]
        return web.json_response({"data": data, "has_more": False, "next_page": None})

    async def _bank(self, _: web.Request) -> web.Response:
        return web.Response(text=_BANK, content_type="text/html")

    async def _answer_bank(self, request: web.Request) -> web.Response:
        intent_id = request.match_info["id"]
        fields = await request.post()
        await self.decide(intent_id, yes=fields["answer"] == "yes")
        raise web.HTTPSeeOther(self._return_urls[intent_id])

    async def _ask(
        self, method: str, path: str, fields: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with self._session.request(
            method, self.inner + path, data=fields, headers=headers
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else {}


def _action_of(path: str) -> tuple[str, str]:
    found = re.fullmatch(r"/v1/payment_intents/(\w+)(?:/(\w+))?", path)
    return (found[1], found[2] or "") if found else ("", "")


def _error(status: int, type_: str, code: str) -> web.Response:
    return web.json_response({"error": {"type": type_, "code": code}}, status=status)
