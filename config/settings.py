"""The only reader of the environment.

Every value can be set as `SECKILL_<NAME>`; a bad value fails at start and names the variable.
`seckill up` writes the addresses and secrets of the stack that it started to
`<home>/settings.json`; a variable of the environment comes first.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from config.field_types import (
    DELAY_QUEUE,
    KEY_EXPIRY,
    AmqpUrl,
    Currency,
    HttpUrl,
    Networks,
    Origins,
    PostgresDsn,
    RedisUrl,
    Timeouts,
)
from config.redis_url import RedisTopology, parse_redis_url

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def _default_home() -> Path:
    """Return `.seckill` in the checkout, or in the user's folder if this is an installed package.

    A user without a folder, as in a container, gets the system's place for such data: never a
    folder that others may write, because the settings file in it would be believed.
    """
    if (PROJECT_ROOT / "pyproject.toml").exists():
        return PROJECT_ROOT / ".seckill"
    try:
        return Path.home() / ".seckill"
    except RuntimeError:  # neither HOME nor an entry among the users
        return Path("/var/lib/seckill")


#: Where the private services keep their data, unless SECKILL_HOME is set.
DEFAULT_HOME = _default_home()


def given_home() -> Path:
    """Return the home that the environment names, or the default one."""
    return Path(os.environ.get("SECKILL_HOME") or DEFAULT_HOME).absolute()


#: Longer than any wait, and still a time that can be added to a date.
SECONDS_MAX = 10**9
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]

#: What a bearer token may consist of (RFC 6750). Shorter ones can be guessed.
ADMIN_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{32,}")
#: What a namespace may consist of: neither Redis's {} nor the . and : that end it in a name.
NAMESPACE = re.compile(r"[A-Za-z0-9_-]{0,32}")


#: The addresses of the stores, without which little works.
STORES = ("redis_url", "amqp_url", "postgres_dsn")
#: Each of them makes a gateway take logins.
LOGIN_KEYS = ("jwt_keys", "jwks_url", "jwt_public_key", "jwt_public_key_file")


class BadSettings(Exception):
    """A setting is missing or has a value that cannot be used."""


class Settings(BaseSettings):
    """Everything that can be configured, with the reason for each number."""

    # Files of secrets end with a line feed, which is no part of an address.
    model_config = SettingsConfigDict(
        env_prefix="SECKILL_", extra="ignore", frozen=True, str_strip_whitespace=True
    )

    # Where the private services keep their data, pid files and logs.
    home: Path = DEFAULT_HOME

    # Stores. Empty means: not configured (see `require`).
    redis_url: RedisUrl = ""
    amqp_url: AmqpUrl = ""
    postgres_dsn: PostgresDsn = ""

    #: What names of keys, exchanges and queues begin with, so that several installations can use
    #: one Redis and one RabbitMQ. 32 leave room in the 255 bytes of a queue's name.
    namespace: str = ""

    #: Whether stores that could lose something keep gateways from being ready and sales from
    #: opening (`refuse`), or only cause a warning (`warn`): for operators who know the reason.
    preflight: Literal["refuse", "warn"] = "refuse"

    # The edge.
    gateway_host: str = "127.0.0.1"
    gateway_port: Port = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8081
    #: The port of the shop's own programs (docs/shop-api.md), shared by the processes of a host;
    #: 0 serves it nowhere.
    shop_host: str = "127.0.0.1"
    shop_port: Port = 0
    #: Calls a second of one token, per process: many times what a shop's back office does, and a
    #: small part of a core. Twice as many at once after a pause.
    shop_rate_per_s: Count = 20
    gateway_url: str = ""
    admin_url: str = ""
    shop_url: str = ""
    #: Time for requests in flight to finish after SIGTERM. A grab is answered within
    #: redis_timeout_s + 2 * confirm_timeout_s, so this is that sum and some more.
    drain_s: Seconds = 5.0
    #: Time between SIGTERM and the end of listening. `/readyz` is 503 meanwhile, so that balancers
    #: send no more: longer than the time between two of their looks.
    stop_delay_s: Annotated[float, Field(ge=0, le=SECONDS_MAX)] = 1.0

    # The public edge.
    #: Proxies whose X-Forwarded-For is believed: addresses and networks, comma-separated.
    trusted_proxies: Networks = ()
    #: Web pages that may call from a browser: exact origins, comma-separated, or `*`.
    cors_origins: Origins = frozenset()
    #: Certificate chain and key of the public port in PEM files; read again on SIGHUP.
    tls_cert: str = ""
    tls_key: str = ""

    # Key rings, `kid:secret[,kid:secret…]`. The first key signs, all of them verify.
    ticket_keys: SecretStr = SecretStr("")
    jwt_keys: SecretStr = SecretStr("")
    #: Where the login service publishes its public keys (JWKS), beside or instead of jwt_keys.
    jwks_url: HttpUrl = ""
    #: How often that is read. A key that is withdrawn is still believed for so long.
    jwks_refresh_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    #: Public keys of the login service in PEM, as text or in a file.
    jwt_public_key: str = ""
    jwt_public_key_file: Path | None = None
    #: How much the clock of who issues login tokens may differ from ours (exp, nbf, iat).
    jwt_leeway_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    #: What a login token's `aud` has to be, or to contain: one of these, comma-separated. Empty
    #: takes tokens without `aud` alone.
    jwt_audience: str = ""
    #: What a login token's `iss` has to be; empty takes any, as the key says who issued it.
    jwt_issuer: str = ""
    #: The claim of a login token that names the buyer: text or a whole number.
    jwt_buyer_claim: Annotated[str, Field(min_length=1)] = "sub"
    # The card provider signs its webhooks with these. Empty refuses every webhook.
    webhook_keys: SecretStr = SecretStr("")
    # The shop's own checkout signs its reports of payments with these. Empty refuses them.
    shop_keys: SecretStr = SecretStr("")
    # The bearer token of the admin API on the admin port. Empty turns that API off.
    admin_token: SecretStr = SecretStr("")
    # A second token that may look at everything there, and change nothing. Empty: there is none.
    admin_read_token: SecretStr = SecretStr("")

    #: How long before the opening tickets are handed out: long enough to spread the logins of a
    #: crowd over minutes.
    ticket_lead_s: Seconds = 600.0
    #: How long a ticket is good after the opening, or after it was made: buyers also read their
    #: orders with it.
    ticket_ttl_s: Seconds = 3600.0
    #: How long a challenge may be worked on: several times what a slow phone needs for a sensible
    #: `proof_bits`, and short enough that used ones do not pile up in Redis.
    challenge_ttl_s: Annotated[float, Field(ge=1, le=SECONDS_MAX)] = 300.0

    # Limits. Requests beyond them are refused at once, so that the others are answered soon.
    #: Rate limits: a profile of config/limits.toml, or of a file of that form.
    limits_profile: str = "default"
    limits_file: Path | None = None
    #: Grabs in flight per process, and a quarter as many other requests: a tenth of a second's work
    #: if a core answers 20,000 grabs a second. The limit shrinks when answers take long
    #: (gateway/overload/concurrency_limit.py).
    requests_in_hand_max: Annotated[int, Field(ge=64)] = 2_000
    #: The mean wait beyond which that limit shrinks. Under overload the slowest of a hundred wait
    #: four times as long, and a quarter of a second still feels immediate.
    wait_max_s: Seconds = 0.05
    #: Whether plain grabs are read without aiohttp (gateway/grabs/connection.py). The answers are
    #: the same.
    fast_lane: bool = True
    #: Open connections per process, idle ones included: about 20 kB each. The system's limit on
    #: open files holds as well.
    connections_max: Count = 20_000
    #: How long a connection may stay without a whole request, or leave an answer unread. Browsers
    #: keep idle ones for a minute or two; a client that sends its headers byte by byte gets that.
    keepalive_s: Seconds = 75.0

    # Batching: what arrived while the last call was under way goes out together.
    #: Grabs in one script call. 512 take Redis about 1 ms, in which it answers no other client.
    grab_batch_max: Annotated[int, Field(ge=1, le=512)] = 512
    #: Script calls under way per sale and process: one is being run while one is on its way.
    grab_calls_in_flight: Count = 2
    #: Between the starts of two script calls of a sale, unless 64 grabs wait; after a call of fewer
    #: than 4 grabs it is less. A lone grab goes at once, and the grabs that follow it closely go
    #: together. A call and its message cost gateway, Redis, broker and consumer two milliseconds of
    #: CPU together, however many grabs they hold.
    grab_spacing_s: Annotated[float, Field(ge=0, le=1)] = 0.016
    #: Polls a second that a process asks of waiting buyers, by `next_poll_ms`: about a fifth of
    #: what it can answer, so that polls never displace grabs.
    poll_budget_per_s: Count = 1_000
    #: Event streams per process; beyond it 503, and the client polls. This many take 20 MB, some
    #: 3 % of a core, and as many file descriptors: see that `ulimit -n` leaves enough for grabs.
    event_streams_max: Count = 1_000
    #: A stream sends something this often, so that no proxy closes it: proxies wait 30 s or more,
    #: and the HTML standard advises 15 s.
    event_heartbeat_s: Seconds = 15.0
    #: Accepted batches not yet confirmed by the broker, per sale, before grabs are refused.
    outbox_max: Count = 10_000

    #: Orders of one sale that a buyer may cancel: who grabs and cancels in turn would have the last
    #: unit nearly always. A further order ends when its time to pay is over.
    cancels_max: Annotated[int, Field(ge=0)] = 3

    #: Payments in flight per process: a second's work if a core commits some hundreds. Beyond it
    #: 503 at once.
    payments_in_hand_max: Count = 500
    #: Whether one process at a time tries to pay an order. It saves work and decides nothing.
    payment_lock: bool = True

    # The card provider.
    #: Which adapter: the sandbox's, or Stripe's (seckill/payments/providers.py).
    provider: Literal["sandbox", "stripe"] = "sandbox"
    #: The address of the sandbox; empty means that no cards are taken, unless by Stripe.
    provider_url: HttpUrl = ""
    #: A secret or restricted key of the Stripe account, and the signing secret of its webhooks: two
    #: with a comma while one replaces the other. Without a secret every webhook is refused.
    stripe_key: SecretStr = SecretStr("")
    stripe_webhook_secret: SecretStr = SecretStr("")
    stripe_url: HttpUrl = "https://api.stripe.com"
    #: For one call to the provider. Banks take a second or two; a buyer gets an answer after half a
    #: second anyway, and the provider is asked again after a lost answer.
    provider_timeout_s: Seconds = 5.0
    #: How long a buyer's call waits for the bank's word; afterwards it is 202, and the order tells.
    #: A bank that answers takes one second or two, and a page that waits needs no second call.
    card_wait_s: Seconds = 2.5
    #: Calls at once, per process; others wait for a connection, within the timeout.
    provider_calls_max: Count = 100
    #: How long after the end of its payment window an order waits for a bank that has not decided;
    #: then the charge is voided, and the units are for sale again.
    payment_grace_s: Seconds = 60.0
    #: How long an order is kept for a buyer whom the shop's own checkout has sent to a bank, once:
    #: longer than banks give a buyer to confirm.
    external_hold_s: Annotated[float, Field(gt=0, le=86_400)] = 900.0

    #: The currency (ISO 4217) of wallets and coupons, and of new sales that name none.
    currency: Currency = "EUR"

    # Webhooks, which the shop is sent (docs/webhooks.md).
    #: Whether they may go to private addresses, this host included, and there by http.
    webhook_private: bool = False
    #: For one request to an endpoint, from the connection to the status.
    webhook_timeout_s: Annotated[float, Field(gt=0, le=60)] = 15.0

    # Time limits. confirm_timeout_s must stay under relay_age_ms, or the relay would re-send
    # what the gateway is still waiting for.
    redis_timeout_s: Seconds = 1.0
    #: So many replicas must have a batch of grabs before any of them is answered 202; with fewer
    #: they get 503. 0 waits for none: then the newest grabs are lost with a master that dies.
    redis_min_replicas: Annotated[int, Field(ge=0, le=16)] = 0
    #: Whether those replicas must have it on disk (WAITAOF, Redis 7.2 or later).
    redis_replicas_fsync: bool = False
    postgres_timeout_s: Seconds = 2.0
    confirm_timeout_s: Seconds = 1.0
    connect_timeout_s: Seconds = 5.0
    relay_age_ms: Count = 2_000

    # Consumers.
    #: How the end of an order's time to pay is noticed (docs/adr/0007-timeouts.md): delay_queue,
    #: key_expiry, both with a comma, or none. The sweep finds overdue orders in any case.
    timeouts: Timeouts = frozenset({DELAY_QUEUE})
    #: Whether the reconcile role repairs what it finds, or only logs it. An emptied broker needs
    #: the repair.
    reconcile_applies: bool = True
    #: The message of a holder so old without a row is lost: relay, retries and a restart of the
    #: consumers take less.
    reconcile_age_s: Seconds = 30.0
    #: Days after which a closed, quiet sale is archived: its keys leave Redis, and PostgreSQL alone
    #: has it. 0: never by age; `seckill sale archive` does it by hand.
    archive_after_days: Annotated[float, Field(ge=0, le=36_500)] = 0
    #: Open sales whose units left are a metric by their names, the largest first. Such names are no
    #: closed set, and each is a series for as long as Prometheus keeps its data. 0: none.
    metrics_sales: Annotated[int, Field(ge=0, le=20)] = 0
    #: Messages on their way to one consumer: three merged batches, so that it never starves.
    prefetch: Count = 300
    #: Grabs merged into one SQL transaction. Beyond some hundreds a larger batch buys nothing.
    place_batch_max: Count = 1_000
    #: Between the starts of two such transactions, unless 512 grabs or several sales wait; after a
    #: transaction of fewer than 16 grabs it is less. Grabs that one sale sends closely are placed
    #: together. At half the load this takes a third off the CPU of consumers and PostgreSQL
    #: (docs/performance-log.md), and a buyer polls after 500 ms at the earliest.
    place_spacing_s: Annotated[float, Field(ge=0, le=1)] = 0.05
    postgres_pool_max: Count = 4
    #: A process whose `/livez` has not answered for so long hangs, and its supervisor (the pool, or
    #: `up`) starts it again: a hundred times what the largest batch takes, and short of the minute
    #: after which buyers ask why their order is queued.
    liveness_s: Annotated[float, Field(ge=4, le=SECONDS_MAX)] = 30.0
    #: How long ended transactions are kept, with their barriers: longer than any of their messages
    #: or calls can take, and longer than a night until an operator looks.
    transaction_retention_s: Annotated[float, Field(ge=3600, le=SECONDS_MAX)] = 86_400.0

    # Traces and logs.
    #: Lines of the log: `json` for machines, `text` for people. Empty: text on a terminal, JSON
    #: elsewhere.
    log_format: Literal["", "json", "text"] = ""
    #: `debug` has a line for each batch of orders, with their ids.
    log_level: Literal["debug", "info", "warning"] = "info"
    #: The share of grabs whose orders are traced, 0 to 1. With 0 only those with a sampled
    #: `traceparent`, and slow or failed ones. Without it nothing is traced.
    trace_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    #: A grab that took longer becomes a trace: the time within which grabs should be answered.
    trace_slow_s: Seconds = 0.25
    #: Where spans are written as lines of JSON. Without it, and without a collector, the file
    #: traces.jsonl of the stack's home.
    trace_file: Path | None = None
    #: The address of a collector, by the variables of OpenTelemetry, whose exporter reads them too.
    otlp_endpoint: str = Field(
        default="",
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    )

    #: How often the supervisor of this process had to start it again; the supervisor sets it.
    restarts: Annotated[int, Field(ge=0)] = 0

    #: Datagram socket of a supervisor that wants READY=1 (the systemd protocol).
    notify_socket: str = Field(default="", validation_alias="NOTIFY_SOCKET")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank the sources: arguments, environment, the running stack's settings file."""
        home = Path(init_settings().get("home") or given_home())
        return (
            init_settings,
            env_settings,
            JsonConfigSettingsSource(settings_cls, json_file=home / "settings.json"),
        )

    @field_validator("home", mode="before")
    @classmethod
    def _not_here(cls, home: object) -> object:
        return home or DEFAULT_HOME  # an empty path would be the folder that one is in

    @field_validator("namespace")
    @classmethod
    def _part_of_a_name(cls, name: str) -> str:
        if not NAMESPACE.fullmatch(name):
            raise ValueError(f"{name!r}: use up to 32 of A-Z a-z 0-9 _ -, or nothing")
        return name

    @field_validator("admin_token", "admin_read_token")
    @classmethod
    def _hard_to_guess(cls, token: SecretStr) -> SecretStr:
        text = token.get_secret_value()
        if text and not ADMIN_TOKEN.fullmatch(text):
            raise ValueError("give at least 32 of A-Z a-z 0-9 . _ ~ + / = -, or nothing")
        return token

    @model_validator(mode="after")
    def _confirm_before_relay(self) -> Settings:
        if self.confirm_timeout_s * 1000 >= self.relay_age_ms:
            raise ValueError(
                "SECKILL_CONFIRM_TIMEOUT_S must stay under SECKILL_RELAY_AGE_MS, or the relay "
                "re-sends what a gateway still waits for"
            )
        return self

    @model_validator(mode="after")
    def _two_admin_tokens(self) -> Settings:
        text = self.admin_read_token.get_secret_value()
        if text and not self.admin_token.get_secret_value():
            raise ValueError("SECKILL_ADMIN_READ_TOKEN needs SECKILL_ADMIN_TOKEN beside it")
        if text and text == self.admin_token.get_secret_value():
            raise ValueError("SECKILL_ADMIN_READ_TOKEN must differ from SECKILL_ADMIN_TOKEN")
        return self

    @model_validator(mode="after")
    def _stripe_with_key(self) -> Settings:
        if self.provider == "stripe" and not self.stripe_key.get_secret_value():
            raise ValueError("SECKILL_PROVIDER=stripe needs SECKILL_STRIPE_KEY beside it")
        return self

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Settings:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError(
                "SECKILL_TLS_CERT and SECKILL_TLS_KEY go together: set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _absolute_paths(self) -> Settings:
        for name in ("tls_cert", "tls_key", "jwt_public_key_file", "limits_file", "trace_file"):
            if (file := getattr(self, name)) and not Path(file).is_absolute():
                raise ValueError(
                    f"SECKILL_{name.upper()}: {file} must be an absolute path, "
                    "because processes run in other directories"
                )
        return self

    @model_validator(mode="after")
    def _one_redis_for_key_expiry(self) -> Settings:
        if KEY_EXPIRY not in self.timeouts or not self.redis_url:
            return self
        if parse_redis_url(self.redis_url).topology is RedisTopology.CLUSTER:
            raise ValueError(
                "SECKILL_TIMEOUTS: key_expiry does not work with a cluster, where each node "
                "announces its own keys alone; use delay_queue"
            )
        return self

    @property
    def checks_logins(self) -> bool:
        """Tell whether there is any key, or address of keys, for login tokens."""
        return any(_text(getattr(self, name)) for name in LOGIN_KEYS)

    def spans_file(self) -> Path | None:
        """Return the file that spans are written to; None if a collector alone gets them."""
        if self.trace_file is None and not self.otlp_endpoint:
            return self.home / "traces.jsonl"
        return self.trace_file

    def require(self, *names: str) -> None:
        """Raise BadSettings naming all of these settings that are empty, and what to do."""
        values = self.model_dump()
        missing = [name for name in names if not _text(values[name])]
        if self.checks_logins and "jwt_keys" in missing:
            missing.remove("jwt_keys")
        if missing:
            raise BadSettings(
                f"{', '.join(f'SECKILL_{name.upper()}' for name in missing)} not set and no stack "
                f"is running in {self.home}; start one with `seckill up`, or set the variables"
            )


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings (of the stack in `home`), or raise BadSettings naming each bad variable."""
    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        raise BadSettings(f"bad setting: {'; '.join(map(_line, error.errors()))}") from error
    except (ValueError, TypeError) as error:  # no JSON, no text, or no object
        raise BadSettings(f"settings.json of the stack is damaged: {error}") from error


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")


def _line(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")  # words of pydantic
    if not error["loc"]:  # about several settings; the message names them
        return message
    name = "_".join(map(str, error["loc"])).upper()
    return f"{name if name == 'NOTIFY_SOCKET' else f'SECKILL_{name}'}: {message}"


def save_stack_settings(home: Path, values: dict[str, object]) -> None:
    """Write `<home>/settings.json` for the user alone (it holds secrets), in one step."""
    home.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=home, prefix="settings-")  # made with mode 0600
    with os.fdopen(descriptor, "w") as file:
        json.dump(values, file, indent=2)
    Path(name).replace(home / "settings.json")
