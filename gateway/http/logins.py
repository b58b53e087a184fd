"""Logins: which buyer a login token names, at a bounded cost for whatever strangers send."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256

from aiohttp import web

from config.settings import Settings
from gateway.app_keys import SETTINGS
from gateway.http.key_source import KeySource
from gateway.http.problems import Problem, Refused
from gateway.http.turns import TurnShares
from seckill import metrics
from seckill.auth.key_ring import KeyRing
from seckill.auth.login_checks import (
    BadLogin,
    Login,
    LoginRules,
    TokenHeader,
    WrongKey,
    check,
    read_header,
)
from seckill.auth.login_keys import LoginKey, LoginKeys, shared_keys
from seckill.auth.login_tokens import ALGORITHM as HS256
from seckill.auth.public_keys import parse_pem
from seckill.errors import UserMistake

log = logging.getLogger(__name__)

#: Checks of signatures in one turn of the loop: 1.5 ms, or 5 ms of the longest tokens. Without a
#: bound, clients that send junk would make each turn as long as there are clients; with a smaller
#: one, a turn full of grabs would let too few logins in.
CHECKS_EACH_TURN = 16
#: Logins that wait for their check: a quarter of a second's work.
WAITING_MAX = 1_000
#: Good tokens that are remembered, until they end: a poll by login then costs no check. Each takes
#: 300 bytes.
GOOD_MAX = 10_000
#: A reason why logins are refused is logged once in this time: anybody can send junk.
LOG_EACH_S = 60.0


class Logins:
    """Checks login tokens with our own keys and, if there is one, those of the login service."""

    def __init__(self, keys: Sequence[LoginKey], rules: LoginRules) -> None:
        self._own, self._rules = keys, rules
        self._keys = LoginKeys(keys)
        self._good: dict[bytes, Login] = {}
        self._shares = TurnShares(each_turn=CHECKS_EACH_TURN, waiting_max=WAITING_MAX)
        self._logged_at: dict[str, float] = {}
        #: The login service, while the application runs.
        self.source: KeySource | None = None

    @property
    def flaw(self) -> str:
        """Return why the keys are not as they should be, or ""."""
        flaw = self.source.flaw if self.source else ""
        return flaw and f"The keys at SECKILL_JWKS_URL cannot be read: {flaw}"

    def use(self, keys: Sequence[LoginKey]) -> None:
        """Check with these keys of the login service from now on, beside our own."""
        self._keys = LoginKeys([*self._own, *keys])
        self._good.clear()  # a key may have been withdrawn

    async def buyer_of(self, token: str) -> str:
        """Return the buyer whom a token names; raise Refused, saying why, if it is not good."""
        try:
            login = await self._login_of(token)
        except BadLogin as error:
            metrics.LOGINS.labels("refused").inc()
            self._log(str(error))
            raise Refused(Problem.UNAUTHORIZED, str(error)) from error
        metrics.LOGINS.labels("good").inc()
        return login.buyer_id

    async def _login_of(self, token: str) -> Login:
        header = read_header(token)
        digest = sha256(token.encode()).digest()
        login = self._good.get(digest)
        if login is None or login.good_until <= time.time():
            found, known = await self._find_keys(header), self._keys
            login = await self._check(token, found)
            if known is self._keys:  # else its key may have been withdrawn while it waited
                self._remember(digest, login)
        return login

    async def _find_keys(self, header: TokenHeader) -> list[LoginKey]:
        """Return the keys that a token may be signed with; raise BadLogin if there is none."""
        found = self._keys.find(header.alg, header.kid)
        if found or self.source is None or header.alg == HS256:
            return found or self._refuse_unknown(header)
        await self.source.catch_up()
        found = self._keys.find(header.alg, header.kid)
        if not found and self.source.is_behind:
            metrics.LOGINS.labels("unknown").inc()
            raise Refused(Problem.UNAVAILABLE, "the keys of the login service cannot be read")
        return found or self._refuse_unknown(header)

    def _refuse_unknown(self, header: TokenHeader) -> list[LoginKey]:
        if header.alg not in self._keys.algorithms:
            known = " or ".join(sorted(self._keys.algorithms)) or "nothing"
            raise BadLogin(f"the login token is not signed with {known}: no other key is set")
        where = "SECKILL_JWT_KEYS" if header.alg == HS256 else "SECKILL_JWKS_URL"
        raise BadLogin(f"the login token's kid names no key of {where}")

    async def _check(self, token: str, keys: Sequence[LoginKey]) -> Login:
        for key in keys[:-1]:
            await self._shares.take()
            try:
                return check(token, key, self._rules)
            except WrongKey:
                continue
        await self._shares.take()
        return check(token, keys[-1], self._rules)

    def _remember(self, digest: bytes, login: Login) -> None:
        self._good.pop(digest, None)
        if len(self._good) >= GOOD_MAX:
            del self._good[next(iter(self._good))]  # the oldest
        self._good[digest] = login

    def _log(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(reason, float("-inf")) > LOG_EACH_S:
            self._logged_at[reason] = now
            log.warning("a login is refused: %s", reason)


LOGINS = web.AppKey("logins", Logins)


def logins_of(settings: Settings, ring: KeyRing | None) -> Logins:
    """Make the checks that the settings ask for; raise UserMistake if a key is unusable."""
    keys = shared_keys(ring) if ring else []
    if settings.jwt_public_key:
        keys += parse_pem(settings.jwt_public_key, setting="SECKILL_JWT_PUBLIC_KEY")
    if file := settings.jwt_public_key_file:
        try:
            keys += parse_pem(file.read_text(), setting="SECKILL_JWT_PUBLIC_KEY_FILE")
        except (OSError, UnicodeDecodeError) as error:
            raise UserMistake(f"SECKILL_JWT_PUBLIC_KEY_FILE: {error}") from error
    audiences = [item.strip() for item in settings.jwt_audience.split(",")]
    rules = LoginRules(
        settings.jwt_leeway_s,
        tuple(filter(None, audiences)),
        settings.jwt_issuer,
        settings.jwt_buyer_claim,
    )
    return Logins(keys, rules)


async def logins_ctx(app: web.Application) -> AsyncIterator[None]:
    """Read the keys of the login service as long as the application runs."""
    settings, logins = app[SETTINGS], app[LOGINS]
    if not settings.jwks_url:
        yield
        return
    async with KeySource.open(
        settings.jwks_url, refresh_s=settings.jwks_refresh_s, on_keys=logins.use
    ) as logins.source:
        yield
