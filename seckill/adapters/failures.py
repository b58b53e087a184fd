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
#: Words of Redis's error replies, in a script's error too. Every other reply is UNAVAILABLE.
REDIS_KINDS: Mapping[str, FailureKind] = {
    "NOAUTH": FailureKind.CONFIGURATION,
    "WRONGPASS": FailureKind.CONFIGURATION,
    "NOPERM": FailureKind.CONFIGURATION,
    "MOVED": FailureKind.CONFIGURATION,
    "CROSSSLOT": FailureKind.CONFIGURATION,
    "unknown command": FailureKind.CONFIGURATION,
    "TRYAGAIN": FailureKind.TRANSIENT,
    "ASK": FailureKind.TRANSIENT,
}
#: Replies that a link to the wrong node gets: the links are dropped, the next one may lead right.
WRONG_NODE = ("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN")
#: Refusals of RabbitMQ that last until an operator acts. Every other error is UNAVAILABLE.
RABBITMQ_CONFIGURATION = (
    exceptions.AuthenticationError,
    exceptions.ProbableAuthenticationError,  # user, password
    exceptions.ConnectionNotAllowed,  # 530: vhost, limits
    exceptions.ChannelAccessRefused,  # 403: permissions
    exceptions.ChannelNotFoundEntity,  # 404
    exceptions.ChannelPreconditionFailed,  # 406: made with other arguments
)


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
    if isinstance(error, ResponseError):
        return _refused(REDIS, error, _redis_kind(str(error)))
    if isinstance(error, RedisError):
        return _silent(REDIS, error)
    if isinstance(error, AMQPError):
        if isinstance(error, RABBITMQ_CONFIGURATION):
            return _refused(RABBITMQ, error, FailureKind.CONFIGURATION)
        return _silent(RABBITMQ, error)
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
    except Unavailable:
        raise
    except Exception as error:
        failure = store_failure(error, store)
        if failure is None:
            raise
        raise failure from error


def words(error: BaseException) -> str:
    """Return the store's own words in one line, or what there is instead of them."""
    return " ".join(str(error).split()) or type(error).__name__


def is_wrong_node(error: BaseException) -> bool:
    """Return whether an error reply of Redis says that this link leads to the wrong node."""
    return isinstance(error, ResponseError) and any(word in str(error) for word in WRONG_NODE)


def _of_postgresql(error: asyncpg.PostgresError) -> Unavailable | None:
    code = error.sqlstate or ""
    if OF_THE_DATA.match(code):
        return None
    if code == "57014":  # statement_timeout, or cancelled
        return _silent(POSTGRESQL, error, TimedOut)
    kind = POSTGRESQL_KINDS.get(code) or POSTGRESQL_KINDS.get(code[:2])
    return _refused(POSTGRESQL, error, kind or FailureKind.UNAVAILABLE)


def _redis_kind(reply: str) -> FailureKind:
    return next(
        (kind for word, kind in REDIS_KINDS.items() if re.search(rf"\b{word}\b", reply)),
        FailureKind.UNAVAILABLE,
    )


def _refused(store: str, error: BaseException, kind: FailureKind) -> Unavailable:
    return Unavailable(f"{_NAMES[store]} refuses: {words(error)}", kind=kind, store=store)


def _silent(
    store: str, error: BaseException, failure: type[Unavailable] = Unavailable
) -> Unavailable:
    return failure(f"{_NAMES[store]} does not answer: {words(error)}", store=store)


_NAMES = {REDIS: "Redis", RABBITMQ: "RabbitMQ", POSTGRESQL: "PostgreSQL", "": "Something"}
