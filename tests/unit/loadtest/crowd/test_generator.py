"""What the generator reads of answers, and what a report makes of its shots."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.crowd.generator import Crowd, GeneratorReport, PlannedRequest


def shot(due_s: float, sent_s: float, answered_s: float, status: int) -> PlannedRequest:
    return PlannedRequest(due_s, b"", sent_s=sent_s, answered_s=answered_s, status=status)


def test_answers_are_counted_by_status_and_none_is_one() -> None:
    report = GeneratorReport([shot(0, 0, 1, status) for status in (202, 409, 202, 0, 429)])
    assert report.told() == {202: 2, 409: 1, 429: 1, 0: 1}


def test_latencies_count_from_the_intended_time_and_by_status() -> None:
    hundred = [shot(1, 1 + n / 10, 1 + n / 1000, 202) for n in range(1, 101)]
    report = GeneratorReport([*hundred, shot(0, 0, 50, 409), shot(0, 0, 0, 0)])
    assert [round(report.latency_ms(share, 202)) for share in (0, 0.5, 0.99, 1)] == [
        1,
        51,
        100,
        100,
    ]
    assert report.latency_ms(1, 202, 409) == 50_000
    assert report.latency_ms(0.5, 503) == 0


def test_a_late_generator_is_told_from_a_slow_server() -> None:
    report = GeneratorReport([shot(1, 1.5, 9, 202), shot(1, 1, 2, 202), shot(1, 0, 0, 0)])
    assert report.late_ms(1) == 500
    assert report.late_ms(0) == 0


def test_who_waited_for_a_connection_does_not_make_the_generator_late() -> None:
    waited = shot(1, 9, 10, 202)
    waited.queued_s = 1.25
    never_sent = shot(1, 0, 0, 0)
    never_sent.queued_s = 1.75
    assert GeneratorReport([waited]).late_ms(1) == 250
    assert GeneratorReport([waited, never_sent]).late_ms(1) == 750
    assert GeneratorReport([waited]).latency_ms(1, 202) == 9_000


def test_the_generators_share_of_a_core_is_its_cpu_time_by_the_time_of_the_run() -> None:
    # A tenth of a second of rest and of work in turn, and a second of nothing but work.
    busy_s = [0.0, 0.0, 0.1, 0.1, 0.2, *(0.2 + n / 10 for n in range(1, 11)), 1.2, 1.2, 1.2, 1.2]
    report = GeneratorReport(cpu_notes=[(n / 10, 7 + cpu_s) for n, cpu_s in enumerate(busy_s)])
    assert report.cpu_share() == pytest.approx(1.2 / 1.8)
    assert report.busiest_cpu_share() == pytest.approx(1.0)
    assert report.busiest_cpu_share(60) == report.cpu_share(), "a run shorter than the span"
    assert GeneratorReport().busiest_cpu_share() == 0


ANSWER = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\nContent-Length: 11\r\n\r\ncome\r\n\r\nbak"
)


async def told(*pieces: bytes) -> tuple[PlannedRequest, list[bytes]]:
    """Send one shot to a server that answers in these pieces."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that they arrive one by one
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        bodies: list[bytes] = []
        crowd = Crowd(
            "127.0.0.1",
            server.sockets[0].getsockname()[1],
            connections_max=1,
            heard=lambda _shot, body: bodies.append(body),
        )
        report = await crowd.run([PlannedRequest(0.0, b"ping")])
    return report.shots[0], bodies


@pytest.mark.parametrize("cut", [len(ANSWER), 3, 20, 68, 70, 74, len(ANSWER) - 1])
async def test_an_answer_is_read_in_however_many_pieces_it_comes(cut: int) -> None:
    answered, bodies = await told(*filter(None, (ANSWER[:cut], ANSWER[cut:])))
    assert (answered.status, answered.retry_after_s) == (429, 7)
    assert bodies == [b"come\r\n\r\nbak"]


async def test_half_an_answer_is_none() -> None:
    answered, bodies = await told(ANSWER[:-1])
    assert (answered.status, bodies) == (0, [])
