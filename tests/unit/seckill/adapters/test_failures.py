"""What errors of stores mean, by class: also those that no list has."""

import ssl

import asyncpg
import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ConnectionClosed,
    ConnectionNotAllowed,
)
from redis.asyncio import ConnectionPool
from redis.asyncio.client import Pipeline
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from seckill.adapters.failures import POSTGRESQL, is_wrong_node, store_failure
from seckill.errors import FailureKind, TimedOut, Unavailable

UNAVAILABLE, TRANSIENT, CONFIGURATION = FailureKind
UNTRUSTED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
#: How Redis 6 begins the error of a script.
SIX = "ERR Error running script (call to f_1f): @user_script:8: @user_script: 8:"


def postgresql(sqlstate: str) -> Exception:
    error = asyncpg.PostgresError("the server's words")
    error.sqlstate = sqlstate
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (postgresql("25006"), UNAVAILABLE),  # read-only: demoted, or a full disk
        (postgresql("53100"), UNAVAILABLE),
        (postgresql("57P03"), UNAVAILABLE),
        (postgresql("58030"), UNAVAILABLE),
        (postgresql("XX001"), UNAVAILABLE),
        (postgresql("26000"), UNAVAILABLE),  # a pooler: prepared in another session
        (postgresql("42P05"), UNAVAILABLE),  # a pooler: prepared by another client
        (postgresql("ZZ999"), UNAVAILABLE),  # no class that exists today
        (postgresql("40P01"), TRANSIENT),
        (postgresql("55P03"), TRANSIENT),
        (postgresql("28P01"), CONFIGURATION),
        (postgresql("3D000"), CONFIGURATION),
        (postgresql("42883"), CONFIGURATION),
        (postgresql("42501"), CONFIGURATION),
        (asyncpg.InterfaceError("connection is closed"), UNAVAILABLE),
        (ResponseError("READONLY You can't write against a read only replica."), UNAVAILABLE),
        (ResponseError("ERR Error running script: @user_script: -OOM command"), UNAVAILABLE),
        (ResponseError("NOPERM this user has no permissions"), CONFIGURATION),
        (ResponseError("unknown command 'ZMSCORE', with args"), CONFIGURATION),
        (OutOfMemoryError("command not allowed", status_code="OOM"), UNAVAILABLE),
        (BusyLoadingError("Redis is loading", status_code="LOADING"), UNAVAILABLE),
        (ResponseError("MISCONF Errors writing to the AOF file"), UNAVAILABLE),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), UNAVAILABLE),
        (ResponseError("BUSY Redis is busy running a script."), UNAVAILABLE),
        (ResponseError("SOMETHINGNEW of a later version"), UNAVAILABLE),
        (NoPermissionError("this user has no permissions", status_code="NOPERM"), CONFIGURATION),
        (AuthenticationError("invalid username-password", status_code="WRONGPASS"), CONFIGURATION),
        (ResponseError("ERR Unknown Redis command called from script"), CONFIGURATION),
        (ResponseError("ERR max number of clients reached"), UNAVAILABLE),
        (ResponseError("DB index is out of range", status_code="ERR"), CONFIGURATION),
        (ResponseError("MOVED 15224 10.0.0.2:6379"), CONFIGURATION),
        (RedisConnectionError("Connection refused"), UNAVAILABLE),
        (AMQPConnectionError("refused"), UNAVAILABLE),
        (ConnectionClosed(320, "CONNECTION_FORCED"), UNAVAILABLE),
        (ConnectionNotAllowed("NOT_ALLOWED - vhost shop not found"), CONFIGURATION),
        (ChannelAccessRefused("ACCESS_REFUSED"), CONFIGURATION),
        (ConnectionResetError(104, "reset"), UNAVAILABLE),
        (ssl.SSLCertVerificationError(1, UNTRUSTED), CONFIGURATION),
        (RedisConnectionError(f"Error 1 connecting to h:1. {UNTRUSTED}"), CONFIGURATION),
        (AMQPConnectionError(1, UNTRUSTED), CONFIGURATION),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), CONFIGURATION),
        (ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"), CONFIGURATION),
        (ssl.SSLEOFError(8, "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF"), UNAVAILABLE),
        (ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade'), CONFIGURATION),
    ],
)
def test_a_failure_of_a_store_is_judged_by_its_class(error: Exception, kind: FailureKind) -> None:
    failure = store_failure(error)
    assert failure is not None
    assert failure.kind is kind


@pytest.mark.parametrize("sqlstate", ["22003", "23505", "23514", "21000", "P0001", "44000"])
def test_what_is_about_the_data_is_no_failure_of_the_store(sqlstate: str) -> None:
    assert store_failure(postgresql(sqlstate)) is None


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (f"{SIX} -READONLY You can't write against a read only replica.", UNAVAILABLE),
        (f"{SIX} -OOM command not allowed when used memory > 'maxmemory'.", UNAVAILABLE),
        (f"{SIX} NOPERM this user has no permissions to run the 'hset' command", CONFIGURATION),
        (f"{SIX} The user executing the script can't run this command", CONFIGURATION),
        (f"{SIX} WRONGTYPE Operation against a key holding the wrong kind of value", None),
        (f"{SIX} user_script:8: attempt to perform arithmetic on a nil value", None),
        ("OOM command not allowed. script: 1f, on @user_script:8.", UNAVAILABLE),
        ("WRONGTYPE Operation against a key. script: 1f, on @user_script:8.", None),
        ("ERR user_script:8: attempt to index a nil value script: 1f, on @user_script:8.", None),
        ("ERR value is not an integer or out of range", None),
    ],
)
def test_a_reply_that_a_script_got_is_judged_in_the_words_of_redis_6_and_7(reply, kind) -> None:
    failure = store_failure(ResponseError(reply))
    assert (failure and failure.kind) is kind


def test_a_bug_is_no_failure_of_a_store() -> None:
    bad_argument = asyncpg.exceptions._base.DataError("invalid input for query argument $1")
    for error in (KeyError("x"), ValueError("x"), TypeError("x"), bad_argument):
        assert store_failure(error) is None


def test_a_statement_that_took_too_long_is_told_apart() -> None:
    assert isinstance(store_failure(TimeoutError(), POSTGRESQL), TimedOut)
    assert isinstance(store_failure(postgresql("57014")), TimedOut)


def test_the_text_is_one_line_in_the_stores_own_words() -> None:
    failure = store_failure(ResponseError("LOADING Redis is loading\nthe dataset"))
    assert str(failure) == "Redis refuses: LOADING Redis is loading the dataset"
    assert failure is not None
    assert str(failure.at("h:1")).startswith("Redis at h:1 refuses: LOADING")
    assert str(store_failure(TimeoutError(), POSTGRESQL)) == (
        "PostgreSQL does not answer: TimeoutError"
    )


@pytest.mark.parametrize(
    "reply",
    [
        "NOREPLICAS Not enough good replicas to write.",
        "OOM command not allowed when used memory > 'maxmemory'.",
    ],
)
def test_a_reply_to_a_command_in_a_pipeline_is_the_reply(reply: str) -> None:
    error = ResponseError(reply)
    Pipeline(ConnectionPool(), {}, True, None).annotate_exception(error, 1, ("SET", "k (1)", "v"))
    failure = store_failure(error)
    assert failure is not None
    assert (str(failure), failure.code) == (f"Redis refuses: {reply}", reply.split()[0])


def test_what_was_judged_already_stays_as_it_is() -> None:
    failure = Unavailable("the provider does not answer")
    assert store_failure(failure) is failure


def test_only_replies_of_a_wrong_node_drop_links() -> None:
    assert is_wrong_node(ResponseError("READONLY You can't write against a read only replica."))
    assert is_wrong_node(ReadOnlyError("You can't write against", status_code="READONLY"))
    assert not is_wrong_node(ResponseError("OOM command not allowed"))
