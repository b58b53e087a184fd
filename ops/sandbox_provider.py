"""A card provider for development and tests, with faults that can be turned on.

It keeps in memory what each key was really charged, for a check against the orders.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from seckill.auth import webhook_signatures
from seckill.auth.key_ring import KeyRing
from seckill.currencies import DEFAULT_CURRENCY
from seckill.payments.provider import ChargeStatus, RefundStatus

log = logging.getLogger(__name__)

#: A webhook that is not taken is sent again after this long, and in all so often.
WEBHOOK_AGAIN_S = 0.5
WEBHOOK_TRIES = 20
WEBHOOK_TIMEOUT_S = 5.0
#: Charges in one page of a list.
PAGE = 100
#: What its answers tell of a charge.
SHOWN = ("key", "status", "amount_cents", "sale_id", "order_id")


@dataclass(slots=True)
class SandboxBehaviour:
    """The faults of the provider; shares are of 1."""

    decline: float = 0.0
    #: Calls that are carried out and not answered.
    lose_replies: float = 0.0
    #: Calls that never arrive: not carried out, and not answered.
    lose_requests: float = 0.0
    #: Between what is carried out and its answer.
    delay_s: float = 0.0
    #: Charges that are `pending` first, and decided after `late_after_s`.
    late: float = 0.0
    late_after_s: float = 5.0


@dataclass(slots=True)
class SandboxCharge:
    """The charge of one key. `held` and `taken` are what the buyer's bank account shows now."""

    key: str
    sale_id: str = ""
    order_id: str = ""
    amount_cents: int = 0
    status: ChargeStatus = ChargeStatus.UNKNOWN
    held_cents: int = 0
    taken_cents: int = 0
    currency: str = DEFAULT_CURRENCY
    #: What of a captured charge went back in parts, by refund_id.
    refunds: dict[str, int] = field(default_factory=dict)
    #: Every status that it had.
    history: list[str] = field(default_factory=list)

    @property
    def refunded_cents(self) -> int:
        """Return what went back in parts."""
        return sum(self.refunds.values())

    def give_back(self, refund_id: str, cents: int) -> RefundStatus:
        """Give a part of a captured charge back, once for each refund_id."""
        if refund_id in self.refunds:
            return RefundStatus.DONE
        if self.status in (ChargeStatus.AUTHORISED, ChargeStatus.PENDING):
            return RefundStatus.NOT_YET
        if self.status is not ChargeStatus.CAPTURED or cents > self.taken_cents:
            return RefundStatus.REFUSED
        self.refunds[refund_id] = cents
        self.taken_cents -= cents
        return RefundStatus.DONE

    def become(self, status: ChargeStatus) -> None:
        """Move the money as a status requires, and record the status."""
        self.status = status
        self.held_cents = self.amount_cents if status is ChargeStatus.AUTHORISED else 0
        back = self.refunded_cents
        self.taken_cents = self.amount_cents - back if status is ChargeStatus.CAPTURED else 0
        self.history.append(status)


class _RefundRequest(msgspec.Struct):
    amount_cents: int


class _AuthoriseRequest(msgspec.Struct):
    amount_cents: int
    currency: str = DEFAULT_CURRENCY
    sale_id: str = ""
    order_id: str = ""


_decode = msgspec.json.Decoder(_AuthoriseRequest).decode
_decode_refund = msgspec.json.Decoder(_RefundRequest).decode


class Sandbox:
    """The provider. Calls of one key take effect one after the other: each is one step."""

    def __init__(
        self, behaviour: SandboxBehaviour, *, webhook_url: str = "", keys: KeyRing | None = None
    ) -> None:
        """Without a URL or keys no webhooks are sent."""
        self.behaviour = behaviour
        self.charges: dict[str, SandboxCharge] = {}
        self.webhook_url = webhook_url
        self._keys = keys
        self._random = random.Random()  # noqa: S311 - no secret
        self._late: set[asyncio.Task[None]] = set()

    @property
    def sends_webhooks(self) -> bool:
        """Return whether it knows where to send them, and how to sign."""
        return bool(self.webhook_url) and self._keys is not None

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application()
        app.router.add_get("/books", self._list)
        app.router.add_get("/charges", self._list_sale)
        app.router.add_get("/charges/{key}", self._find)
        app.router.add_post("/charges/{key}/authorise", self._authorise)
        app.router.add_post("/charges/{key}/capture", self._capture)
        app.router.add_post("/charges/{key}/void", self._void)
        app.router.add_post("/charges/{key}/refunds/{refund_id}", self._refund)
        app.on_cleanup.append(self._forget_the_late)
        return app

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve inside the block; gives the URL."""
        # A caller that has left waits for no answer, nor does the end of the provider.
        runner = web.AppRunner(
            self.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"http://{host}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def settled(self) -> None:
        """Wait until the bank has decided everything, and every webhook is taken or given up."""
        while self._late:
            await asyncio.wait(self._late)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([asdict(charge) for charge in self.charges.values()])

    async def _list_sale(self, request: web.Request) -> web.Response:
        """Answer with a page of the charges of a sale, by key, from the key `after` on."""
        sale_id, after = request.query.get("sale_id"), request.query.get("after", "")
        found = sorted(key for key, each in self.charges.items() if each.sale_id == sale_id)
        page = [self._shown(self.charges[key]) for key in found if key > after][:PAGE]
        return web.json_response({"charges": page})

    async def _find(self, request: web.Request) -> web.Response:
        self._arrive(request)
        return await self._answer(request, self.charges.get(request.match_info["key"]))

    async def _authorise(self, request: web.Request) -> web.Response:
        try:
            wanted = _decode(await request.read())
        except msgspec.MsgspecError as error:
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
        self._arrive(request)
        key = request.match_info["key"]
        charge = self.charges.setdefault(key, SandboxCharge(key))
        if charge.status is ChargeStatus.UNKNOWN:
            charge.amount_cents, charge.currency = wanted.amount_cents, wanted.currency
            charge.sale_id, charge.order_id = wanted.sale_id, wanted.order_id
            if self._happens(self.behaviour.late):
                charge.become(ChargeStatus.PENDING)
                self._later(self._decide_late(charge))
            else:
                self._decide(charge)
                self._later(self._notify(charge))
        return await self._answer(request, charge)

    async def _capture(self, request: web.Request) -> web.Response:
        self._arrive(request)
        charge = self.charges.get(request.match_info["key"])
        if charge and charge.status is ChargeStatus.AUTHORISED:
            charge.become(ChargeStatus.CAPTURED)
        return await self._answer(request, charge)

    async def _void(self, request: web.Request) -> web.Response:
        self._arrive(request)
        key = request.match_info["key"]
        charge = self.charges.setdefault(key, SandboxCharge(key))
        if charge.status not in (ChargeStatus.VOIDED, ChargeStatus.DECLINED):
            charge.become(ChargeStatus.VOIDED)
        return await self._answer(request, charge)

    async def _refund(self, request: web.Request) -> web.Response:
        try:
            cents = _decode_refund(await request.read()).amount_cents
        except msgspec.MsgspecError as error:
            raise web.HTTPUnprocessableEntity(text=str(error)) from error
        self._arrive(request)
        charge = self.charges.get(request.match_info["key"])
        status = charge.give_back(request.match_info["refund_id"], cents) if charge else None
        await self._delay_or_lose(request)
        if status is None:
            raise web.HTTPNotFound
        return web.json_response({"status": status})

    def _decide(self, charge: SandboxCharge) -> None:
        declined = self._happens(self.behaviour.decline)
        charge.become(ChargeStatus.DECLINED if declined else ChargeStatus.AUTHORISED)

    async def _decide_late(self, charge: SandboxCharge) -> None:
        """Decide as a bank does; money that comes for a voided key goes back at once."""
        await asyncio.sleep(self.behaviour.late_after_s)
        voided = charge.status is ChargeStatus.VOIDED
        self._decide(charge)
        if voided:
            charge.become(ChargeStatus.VOIDED)
        await self._notify(charge)

    async def _notify(self, charge: SandboxCharge) -> None:
        """Send the webhook until it is taken."""
        if not self.webhook_url or self._keys is None:
            return
        body = msgspec.json.encode({"key": charge.key, "status": charge.status})
        async with ClientSession(timeout=ClientTimeout(total=WEBHOOK_TIMEOUT_S)) as session:
            for _ in range(WEBHOOK_TRIES):
                headers = {
                    "Content-Type": "application/json",
                    webhook_signatures.SIGNATURE: webhook_signatures.sign(
                        self._keys, body, now_s=int(time.time())
                    ),
                }
                try:
                    async with session.post(self.webhook_url, data=body, headers=headers) as reply:
                        if reply.status < 300:
                            return
                except (TimeoutError, ClientError, OSError) as error:
                    log.info("webhook of %s not taken: %s", charge.key, error)
                await asyncio.sleep(WEBHOOK_AGAIN_S)
        log.warning("webhook of %s given up", charge.key)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _forget_the_late(self, _: web.Application) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    def _happens(self, share: float) -> bool:
        return self._random.random() < share

    def _arrive(self, request: web.Request) -> None:
        if self._happens(self.behaviour.lose_requests):
            _cut(request)

    async def _delay_or_lose(self, request: web.Request) -> None:
        await asyncio.sleep(self.behaviour.delay_s)
        if self._happens(self.behaviour.lose_replies):
            _cut(request)

    async def _answer(self, request: web.Request, charge: SandboxCharge | None) -> web.Response:
        await self._delay_or_lose(request)
        if charge is None:
            raise web.HTTPNotFound
        return web.json_response(self._shown(charge))

    @staticmethod
    def _shown(charge: SandboxCharge) -> dict[str, object]:
        shown = asdict(charge)
        return {name: shown[name] for name in SHOWN} | {"refunded_cents": charge.refunded_cents}


def _cut(request: web.Request) -> None:
    """Break the connection: the caller cannot know what was done."""
    if request.transport is not None:
        request.transport.abort()
    raise web.HTTPServiceUnavailable  # the caller is gone and does not read it
