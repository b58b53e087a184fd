"""What an error of a store means: one table a store, and one function that looks an error up.

An error is judged by its class, not by a list of single codes: whatever is not about the data of
this very call is the store's fault. Then the work is held, and nothing is retried or dead-lettered.
What `store_failure` does not know is a mistake of ours, or a bad message.

PostgreSQL: https://www.postgresql.org/docs/current/errcodes-appendix.html
Redis: the first word of an error reply. RabbitMQ: https://www.rabbitmq.com/amqp-0-9-1-reference
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import asyncpg
from aiormq import exceptions
from aiormq.exceptions import AMQPError
from redis.exceptions import RedisError, ResponseError

from seckill.errors import FailureKind, TimedOut, Unavailable
from seckill.outages import OUTAGES, STORE_NAMES

REDIS, RABBITMQ, POSTGRESQL = "redis", "rabbitmq", "postgresql"

#: SQLSTATE classes that speak of the data of one statement: ours, or the message's.
OF_THE_DATA = re.compile("0[12]|2[0-4]|27|2F|34|38|39|44|P0")
#: SQLSTATE, or its class: the longest entry counts. Every other class is UNAVAILABLE.
POSTGRESQL_KINDS: Mapping[str, FailureKind] = {
    "40": FailureKind.TRANSIENT,
    "55P03": FailureKind.TRANSIENT,  # lock_timeout
    "0A000": FailureKind.TRANSIENT,  # a plan cached before a migration; asyncpg forgets it
    "28": FailureKind.CONFIGURATION,  # password, NOLOGIN
    "3D": FailureKind.CONFIGURATION,  # no such database
    "3F": FailureKind.CONFIGURATION,  # no such schema
    "42": FailureKind.CONFIGURATION,  # a function, table, column or right is missing
    "42P05": FailureKind.UNAVAILABLE,  # a pooler gave us the session of another client
}
#: First words of Redis's error replies. Every other word, but for ERR, is UNAVAILABLE.
REDIS_KINDS: Mapping[str, FailureKind | None] = {
    "NOAUTH": FailureKind.CONFIGURATION,
    "WRONGPASS": FailureKind.CONFIGURATION,
    "NOPERM": FailureKind.CONFIGURATION,
    "DENIED": FailureKind.CONFIGURATION,  # protected mode
    "MOVED": FailureKind.CONFIGURATION,
    "CROSSSLOT": FailureKind.CONFIGURATION,
    "TRYAGAIN": FailureKind.TRANSIENT,
    "ASK": FailureKind.TRANSIENT,
    "WRONGTYPE": None,  # of the data
    "BUSYGROUP": None,
    "NOGROUP": None,
}
#: What an ERR says of a right or a feature, from within a script as well. Every other ERR is about
#: the data: a value that is no number, or an error of a script.
REDIS_LACKS = re.compile(
    r"unknown (sub)?command|unknown redis command|not allowed|can't (run|access)|no permission"
    r"|invalid password|auth|disabled|not supported|db index",
    re.IGNORECASE,
)
#: An ERR that speaks of a state for now.
REDIS_BUSY = re.compile(r"max number of clients|maxmemory|disk|master|replica|loading", re.I)
#: Redis 6 puts the reply that a script got behind its place in the script.
SCRIPT_REPLY = re.compile(r"user_script:(?: ?\d+:)? -?([A-Z]{3,})\b")
#: What the client library makes of the reply to a command in a pipeline.
PIPELINED = re.compile(
    r"^Command # \d+ \(.*\) of pipeline caused error: \((['\"])(.*?)\1,.*\)$", re.DOTALL
)
#: What clients of all stores say of a server whose TLS is not what the address asks for: OpenSSL's
#: reasons, in the words of each client, and asyncpg's own for PostgreSQL without TLS.
WRONG_TLS = re.compile(
    r"\[SSL: \w*(?:CERTIFICATE|ALERT|VERSION|PROTOCOL)\w*\]|rejected SSL upgrade"
)
#: Replies that a link to the wrong node gets: the links are dropped, the next one may lead right.
WRONG_NODE = frozenset({"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN"})
#: Refusals of RabbitMQ that last until an operator acts, with their reply codes. Every other error
#: is UNAVAILABLE.
RABBITMQ_CONFIGURATION: Mapping[type[AMQPError], str] = {
    exceptions.AuthenticationError: "403",
    exceptions.ProbableAuthenticationError: "403",  # user, password
    exceptions.ConnectionNotAllowed: "530",  # vhost, limits
    exceptions.ChannelAccessRefused: "403",  # permissions
    exceptions.ChannelNotFoundEntity: "404",
    exceptions.ChannelPreconditionFailed: "406",  # made with other arguments
}


def store_failure(error: BaseException, store: str = "") -> Unavailable | None:
    """Return what an error of a store means; None if it is no failure of a store.

    `store` says whose call it was, where the error's own class does not (OSError, TimeoutError).
    """
    if isinstance(error, Unavailable):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _of_postgresql(error)
    # The client's own: a broken protocol, a closed connection. With ValueError: a bad argument.
    client_errors = (asyncpg.InterfaceError, asyncpg.InternalClientError)
    if isinstance(error, client_errors) and not isinstance(error, ValueError):
        return _silent(POSTGRESQL, error)
    if isinstance(error, RedisError):
        return _of_redis(error)
    if isinstance(error, AMQPError):
        return _of_rabbitmq(error)
    if isinstance(error, TimeoutError):
        return _silent(store, error, TimedOut)
    if isinstance(error, OSError):
        return _silent(store, error)
    return None


@contextmanager
def store_errors_as_unavailable(store: str) -> Iterator[None]:
    """Raise Unavailable for every failure of a store; let every other error through."""
    try:
        yield
    except Exception as error:
        failure = store_failure(error, store)
        if failure is None:
            raise
        OUTAGES.failed(failure)
        if failure is error:
            raise
        raise failure from error
    OUTAGES.worked(store)


def words(error: BaseException) -> str:
    """Return the store's own words in one line, or what there is instead of them."""
    said = PIPELINED.sub(r"\2", str(error))
    if isinstance(error, AMQPError) and len(error.args) == 2 and isinstance(error.args[0], int):
        said = str(error.args[1])  # without "[Errno 530]"
    if isinstance(error, StopAsyncIteration):  # the RabbitMQ client's, for a link that ended
        said = "the connection was closed"
    said = " ".join(said.split()) or type(error).__name__
    if isinstance(error, RedisError) and error.status_code:
        return f"{error.status_code} {said}"  # the client library cuts it off
    return said


def is_wrong_node(error: BaseException) -> bool:
    """Return whether an error reply of Redis says that this link leads to the wrong node."""
    return isinstance(error, RedisError) and _redis_code(error) in WRONG_NODE


def _of_postgresql(error: asyncpg.PostgresError) -> Unavailable | None:
    code = error.sqlstate or ""
    if OF_THE_DATA.match(code):
        return None
    if code == "57014":  # statement_timeout, or cancelled
        return _silent(POSTGRESQL, error, TimedOut)
    kind = POSTGRESQL_KINDS.get(code) or POSTGRESQL_KINDS.get(code[:2])
    return _refused(POSTGRESQL, error, kind or FailureKind.UNAVAILABLE, code)


def _of_redis(error: RedisError) -> Unavailable | None:
    if not isinstance(error, ResponseError) and not error.status_code:
        return _silent(REDIS, error)
    code, said = _redis_code(error), words(error)
    kind: FailureKind | None
    if code != "ERR":
        kind = REDIS_KINDS.get(code, FailureKind.UNAVAILABLE)
    elif REDIS_LACKS.search(said):
        kind = FailureKind.CONFIGURATION
    else:
        kind = FailureKind.UNAVAILABLE if REDIS_BUSY.search(said) else None
    return None if kind is None else _refused(REDIS, error, kind, code)


def _redis_code(error: RedisError) -> str:
    """Return the first word of a reply; of the reply that a script got, if that is in it."""
    said = words(error)
    if within := SCRIPT_REPLY.search(said):
        return within[1]
    code = said.split(" ", 1)[0]
    return code if code.isupper() else "ERR"


def _of_rabbitmq(error: AMQPError) -> Unavailable:
    # A link that is refused while it is opened has the code in its arguments.
    code = RABBITMQ_CONFIGURATION.get(type(error)) or next(
        (str(each) for each in error.args if isinstance(each, int)), ""
    )
    if code in RABBITMQ_CONFIGURATION.values():
        return _refused(RABBITMQ, error, FailureKind.CONFIGURATION, code)
    return _silent(RABBITMQ, error)


def _refused(store: str, error: BaseException, kind: FailureKind, code: str) -> Unavailable:
    text = f"{STORE_NAMES[store]} refuses: {words(error)}"
    return Unavailable(text, kind=kind, store=store, code=code)


def _silent(
    store: str, error: BaseException, failure: type[Unavailable] = Unavailable
) -> Unavailable:
    said = words(error)
    if WRONG_TLS.search(said):
        return _refused(store, error, FailureKind.CONFIGURATION, "TLS")
    return failure(f"{STORE_NAMES[store]} does not answer: {said}", store=store)
