"""What a crowd needs before it can come."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.crowd import offer as offer_module
from loadtest.crowd.offer import offer, read_tickets
from ops.processes.ports import free_port
from seckill.errors import SeckillError, UserMistake


def ticket_file(path: Path, *lines: str) -> Path:
    file = path / "tickets.tsv"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_as_many_tickets_are_read_as_are_needed(tmp_path) -> None:
    file = ticket_file(tmp_path, "b1\tk~1~b1~aa", "b2\tk~1~b2~bb", "b3\tk~1~b3~cc")
    assert read_tickets(file, 2) == ["k~1~b1~aa", "k~1~b2~bb"]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["b1\tk~1~b1~aa"], "1 tickets, 2 are needed; type: seckill ticket SALE --count 2"),
        (["b1 k~1~b1~aa", "b2\tk~1~b2~bb"], "each line has to be BUYER, a tab, and TICKET"),
    ],
)
def test_a_file_that_does_not_do_is_named_with_what_to_do(tmp_path, lines, complaint) -> None:
    with pytest.raises(UserMistake, match=complaint):
        read_tickets(ticket_file(tmp_path, *lines), 2)


def test_a_file_that_is_not_there_is_a_users_mistake(tmp_path) -> None:
    with pytest.raises(UserMistake, match="No such file"):
        read_tickets(tmp_path / "none", 1)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:8080", "http://"])
async def test_only_plain_http_can_be_offered(url) -> None:
    with pytest.raises(UserMistake, match="--url"):
        await offer(url, [], 1)


async def test_a_gateway_that_is_not_there_is_one_line() -> None:
    with pytest.raises(SeckillError, match="cannot be reached"):
        await offer(f"http://127.0.0.1:{free_port()}", [], 1, connections=1)


async def test_more_connections_than_files_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(offer_module.resource, "getrlimit", lambda _: (512, 1024))
    with pytest.raises(UserMistake, match="at most 924"):
        await offer("http://127.0.0.1:1", [], 1, connections=925)
