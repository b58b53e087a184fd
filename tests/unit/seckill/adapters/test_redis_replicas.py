"""When a batch of grabs counts: so many replicas have it, in memory or on disk."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

import lua
from seckill.adapters import redis_keys
from seckill.adapters.redis_cluster import key_of
from seckill.adapters.redis_replicas import ReplicaWait, replica_wait


def wait_for(count: int, *, on_disk: bool = False) -> ReplicaWait:
    found = replica_wait(count, on_disk=on_disk, timeout_s=1)
    assert found
    return found


def test_no_replica_is_waited_for_unless_asked() -> None:
    assert replica_wait(0, on_disk=True, timeout_s=1) is None
    assert wait_for(1).digests == {lua.digest("grab")}


@pytest.mark.parametrize(("on_disk", "command"), [(False, "WAIT"), (True, "WAITAOF")])
def test_a_mark_is_written_in_the_slot_of_the_grab_and_then_waited_for(
    on_disk: bool, command: str
) -> None:
    pipe = Redis().pipeline(transaction=False)
    wait_for(2, on_disk=on_disk).add_to(pipe, redis_keys.stock("spring"), asking=True)
    asking, mark, waiting = (args for args, _ in pipe.command_stack)
    assert asking == ("ASKING",)
    assert mark[:2] == ("SET", redis_keys.replication_mark("spring"))
    assert waiting == (command, *([0] if on_disk else []), 2, 500)


@pytest.mark.parametrize(("on_disk", "enough", "short"), [(False, 2, 1), (True, [0, 2], [1, 1])])
def test_fewer_than_asked_is_a_failure(on_disk: bool, enough: object, short: object) -> None:
    wait = wait_for(2, on_disk=on_disk)
    assert wait.failure(True, enough) is None
    assert "1 replicas have the last grabs" in str(wait.failure(True, short))


def test_an_error_is_a_failure() -> None:
    error = ResponseError("READONLY")
    assert wait_for(1).failure(error, 1) is error
    assert wait_for(1).failure(True, error) is error


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a"), "a"),
        (("EVALSHA", "digest", 2, "a", "b"), "a"),
        (("XINFO STREAM", "a"), "a"),
        (("XINFO", "STREAM", b"a"), "a"),
        (("TIME",), None),
        (("CONFIG GET", "save"), None),
        (("SCRIPT LOAD", "return 1"), None),
    ],
)
def test_a_cluster_sends_a_command_where_its_first_key_is(
    command: tuple[object, ...], key: str | None
) -> None:
    assert key_of(command) == key
