"""The table of all states."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from loadtest.store_states.postgresql import PostgresStates
from loadtest.store_states.rabbitmq import RabbitStates
from loadtest.store_states.redis import RedisStates
from ops.stack.services import Services


@dataclass(frozen=True, slots=True)
class StoreState:
    """One state of one store."""

    store: str
    name: str
    enter: Callable[[Services], AbstractAsyncContextManager[None]]
    #: A regular expression of the words that name the cause.
    words: str
    #: Whether a look at the store meets it. Otherwise only the work of consumers does.
    is_seen: bool = True


def _postgresql(name: str, words: str, *, code: str = "", is_seen: bool = True) -> StoreState:
    def enter(services: Services) -> AbstractAsyncContextManager[None]:
        state: AbstractAsyncContextManager[None] = getattr(PostgresStates(services), name)(
            *filter(None, [code])
        )
        return state

    return StoreState("postgresql", f"{name} {code}".strip(), enter, words, is_seen)


def _redis(name: str, words: str, *arguments: str, **values: str) -> StoreState:
    method = "configured" if values else "without_right" if arguments else name

    def enter(services: Services) -> AbstractAsyncContextManager[None]:
        state: AbstractAsyncContextManager[None] = getattr(RedisStates(services), method)(
            *arguments, **values
        )
        return state

    return StoreState("redis", name, enter, words)


def _rabbitmq(name: str, words: str) -> StoreState:
    def enter(services: Services) -> AbstractAsyncContextManager[None]:
        state: AbstractAsyncContextManager[None] = getattr(RabbitStates(services), name)()
        return state

    return StoreState("rabbitmq", name, enter, words)


#: A walk from one to the next changes the store each time, as far as there are states.
STATES = (
    _redis("loading", "LOADING"),
    _postgresql("read_only", "cannot execute|read_only is on"),
    _rabbitmq("other_password", "Login was refused"),
    _redis("cannot_save", "MISCONF"),
    _postgresql("other_password", "password authentication failed"),
    _rabbitmq("alarmed", "it has an alarm"),
    _redis("busy", "BUSY"),
    _postgresql("no_login", "not permitted to log in"),
    _rabbitmq("without_vhost_rights", "access to vhost"),
    _redis("master_down", "MASTERDOWN"),
    _postgresql("renamed_database", "does not exist"),
    _rabbitmq("frozen", "does not answer|TimeoutError"),
    _redis("full", "OOM", maxmemory="1"),
    _postgresql("without_function", "place.*does not exist|another schema"),
    _rabbitmq("disk_alarmed", "it has an alarm"),
    _redis("no evalsha", "NOPERM", "evalsha"),
    _redis("no hincrby", "NOPERM|can't run this command", "hincrby"),
    _postgresql("without_table", 'relation "orders" does not exist|another schema'),
    _rabbitmq("no_connections", "connection limit|connections? .*limit"),
    _redis("demoted", "READONLY|is a replica"),
    _postgresql("locked_table", "lock timeout", is_seen=False),
    _redis("few replicas", "NOREPLICAS", min_replicas_to_write="1"),
    _postgresql("frozen", "does not answer"),
    _postgresql("objecting", "a trigger objects", code="58030", is_seen=False),
    _redis("frozen", "does not answer"),
    _postgresql("objecting", "a trigger objects", code="XX000", is_seen=False),
    _redis("other_password", "WRONGPASS"),
    _postgresql("objecting", "a trigger objects", code="42501", is_seen=False),
)
