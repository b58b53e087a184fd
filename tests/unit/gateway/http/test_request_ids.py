"""Ids of requests: the client's if it is sane, else a new one; on the answer and in the log."""

from __future__ import annotations

import json
import logging
from contextvars import copy_context

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.http.request_ids import HEADER, begin_request, name_answer, new_request_id
from seckill.log_lines import JsonFormatter


async def id_of(sent: str | None) -> str:
    request = make_mocked_request("GET", "/", headers={} if sent is None else {HEADER: sent})
    copy_context().run(begin_request, request)
    response = web.Response()
    await name_answer(request, response)
    return response.headers[HEADER]


@pytest.mark.parametrize("sent", ["a", "req_1042-7", "A.b~c:d/e+f=g@h", "x" * 64])
async def test_a_sane_id_is_kept(sent: str) -> None:
    assert await id_of(sent) == sent


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 65, "é", '"', "a\tb", "<script>"])
async def test_any_other_is_replaced(sent: str | None) -> None:
    made = await id_of(sent)
    assert made != sent
    assert made.isascii()
    assert await id_of(sent) != made


async def test_an_answer_without_a_handler_has_one_too() -> None:
    response = web.Response()
    await name_answer(make_mocked_request("GET", "/"), response)
    assert response.headers[HEADER].rpartition("-")[0] == new_request_id().rpartition("-")[0]


def test_lines_of_the_log_have_it() -> None:
    def line() -> dict[str, object]:
        record = logging.makeLogRecord({"msg": "hello"})
        found: dict[str, object] = json.loads(JsonFormatter().format(record))
        return found

    def within() -> dict[str, object]:
        begin_request(make_mocked_request("GET", "/", headers={HEADER: "req-1"}))
        return line()

    assert copy_context().run(within)["request_id"] == "req-1"
    assert "request_id" not in line()
