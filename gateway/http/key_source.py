"""The keys of the login service, read from its JWKS address in the background.

The last keys that could be read stay in use while the address is unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from seckill import metrics
from seckill.adapters.http import REPLY_MAX_BYTES, HttpClient, Reply
from seckill.auth.login_keys import LoginKey
from seckill.auth.public_keys import UnusableKey, parse_jwks
from seckill.backoff import Backoff, jittered
from seckill.errors import Unavailable
from seckill.tasks import end_tasks

log = logging.getLogger(__name__)

#: For a whole reading: a login service answers within a second, or is in trouble.
READ_S = 5.0
#: A login whose key is unknown waits so long for a reading; then it is asked to come again.
WAIT_S = 2.0
#: Between two readings that unknown keys cause: strangers can make up names of keys.
UNKNOWN_S = 10.0
#: Logins that wait for one reading. Each holds a connection and some kilobytes.
WAITING_MAX = 1_000
#: After a failed reading.
RETRY = Backoff(1.0, 30.0)
#: Shares of the time between two readings: gateways that started together ask one by one.
SPREAD = (0.9, 1.1)


class KeySource:
    """Reads the keys at an address, again and again; `on_keys` gets what was read."""

    def __init__(
        self,
        http: HttpClient,
        url: str,
        *,
        refresh_s: float,
        on_keys: Callable[[Sequence[LoginKey]], None],
    ) -> None:
        self._http, self._url, self._refresh_s, self._on_keys = http, url, refresh_s, on_keys
        self._reading: asyncio.Task[None] | None = None
        self._begun_at = float("-inf")
        self._failures, self._waiting = 0, 0
        self._keys: list[LoginKey] = []
        #: Why the last reading failed; "" if it did not.
        self.flaw = "they have not been read yet"

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, refresh_s: float, on_keys: Callable[[Sequence[LoginKey]], None]
    ) -> AsyncIterator[KeySource]:
        """Read inside the block, which begins when the first reading has ended, well or not."""
        async with HttpClient.open(timeout_s=READ_S, connections_max=1) as http:
            source = cls(http, url, refresh_s=refresh_s, on_keys=on_keys)
            await source._begin()
            loop = asyncio.create_task(source._read_on(), name="login keys")
            try:
                yield source
            finally:
                await end_tasks(*filter(None, (loop, source._reading)))

    @property
    def is_behind(self) -> bool:
        """Tell whether the address may have keys that are not known here."""
        return bool(self.flaw) or self._reading is not None

    async def catch_up(self) -> None:
        """Wait for a reading, for a bounded time; without one under way begin it.

        If the last one is young, neither: whoever makes up names of keys would cause a reading each
        time.
        """
        if self._reading is None and time.monotonic() - self._begun_at < UNKNOWN_S:
            return
        if self._waiting >= WAITING_MAX:
            return
        self._waiting += 1
        try:
            await asyncio.wait({self._reading or self._begin()}, timeout=WAIT_S)
        finally:
            self._waiting -= 1

    async def _read_on(self) -> None:
        while True:
            wait_s = RETRY.wait_s(self._failures) if self.flaw else self._refresh_s
            await asyncio.sleep(jittered(wait_s, SPREAD))
            await asyncio.wait({self._reading or self._begin()})

    def _begin(self) -> asyncio.Task[None]:
        self._begun_at = time.monotonic()
        self._reading = asyncio.create_task(self._read(), name="reading login keys")
        return self._reading

    async def _read(self) -> None:
        try:
            keys, left_out = _keys_of(await self._http.get(self._url))
        except (Unavailable, UnusableKey) as error:
            self._failed(str(error))
        except Exception as error:  # a bug of ours must not end the readings
            log.exception("the keys at SECKILL_JWKS_URL cannot be read")
            self._failed(repr(error))
        else:
            self._took(keys, left_out)
        finally:
            self._reading = None

    def _took(self, keys: list[LoginKey], left_out: list[str]) -> None:
        metrics.LOGIN_KEY_READINGS.labels("read").inc()
        if keys != self._keys or self.flaw:
            names = ", ".join(str(key.kid)[:64] for key in keys)
            log.info("login keys from SECKILL_JWKS_URL: %s", names)
            for flaw in left_out:
                log.warning("a key at SECKILL_JWKS_URL is left out: %s", flaw)
        self._failures, self.flaw = 0, ""
        if keys != self._keys:
            self._keys = keys
            self._on_keys(keys)

    def _failed(self, flaw: str) -> None:
        metrics.LOGIN_KEY_READINGS.labels("failed").inc()
        if flaw != self.flaw:
            kept = "the last ones are used" if self._keys else "no login is taken by them"
            log.warning("the keys at SECKILL_JWKS_URL cannot be read, and %s: %s", kept, flaw)
        self._failures += 1
        self.flaw = flaw


def _keys_of(reply: Reply) -> tuple[list[LoginKey], list[str]]:
    if reply.status != 200:
        raise UnusableKey(f"the address answers {reply.status}")
    if len(reply.body) >= REPLY_MAX_BYTES:
        raise UnusableKey(f"the answer is larger than {REPLY_MAX_BYTES // 1024} KiB")
    return parse_jwks(reply.body)
