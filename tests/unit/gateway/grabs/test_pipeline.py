"""The order of checks, and one answer a grab, whatever happens on the way."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from gateway.grabs.pipeline import GrabPipeline, PendingGrab
from gateway.grabs.reservations import RESERVATIONS, GrabResult
from gateway.grabs.traces import contexts_of
from gateway.http.auth import TICKET_KEYS
from gateway.http.client_address import TRUSTED_PROXIES
from gateway.http.problems import Problem, Refused
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT, ConcurrencyLimit
from gateway.overload.poll_schedule import POLL_SCHEDULE, PollSchedule
from gateway.overload.rate_limiter import LIMITER, RateLimited
from seckill import metrics
from seckill.auth import tickets
from seckill.auth.key_ring import KeyRing
from seckill.errors import Unavailable
from seckill.inventory.reservations import Grab, Holding, Verdict
from seckill.spans import SPANS, FinishedSpan, SpanKind

KEYS = KeyRing.parse("k:0123456789abcdef0123456789abcdef", setting="KEYS")
SALE = SimpleNamespace(sale_id="spring", number=1, per_order_max=2)
LIMITED = RateLimited("try", 3.0, 10, 20)


class Client:
    """Keeps the answers that it was given."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def respond(self, verdict: Verdict, body: bytes) -> None:
        self.answers.append((verdict, body))

    def refuse(self, refused: Refused) -> None:
        self.answers.append(refused.problem)

    def shed(self) -> None:
        self.answers.append("shed")


class Reservations:
    """A sale whose batches the test answers."""

    def __init__(self) -> None:
        self.sale, self.selling, self.left = SALE, True, 5
        self.grabs: list[Any] = []
        self.look_ups: list[Any] = []
        self.put, self.put_look_up = self.grabs.append, self.look_ups.append

    def new_grab(self, buyer_id: str, quantity: int) -> Grab:
        return Grab("order-1", buyer_id, quantity)


class Limiter:
    """Limits as the test says."""

    def __init__(self) -> None:
        self.here: RateLimited | None = None
        self.has_token = True
        self.asks: list[Any] = []
        self.names: list[tuple[str, str]] = []

    def local_refusal(self, buyer_id: str, address: str) -> RateLimited | None:
        self.names.append((buyer_id, address))
        return self.here

    def take(self, sale_id: str, op: str, line_max: Any) -> bool:
        return self.has_token

    def put(self, sale_id: str, op: str, waiter: Any) -> None:
        self.asks.append(waiter)


class Bench:
    """A pipeline, with everything around it in the test's hands."""

    def __init__(self) -> None:
        self.reservations, self.limiter = Reservations(), Limiter()
        self.in_flight = ConcurrencyLimit(64, 1.0)
        app = web.Application()
        app[TICKET_KEYS], app[TRUSTED_PROXIES] = KEYS, ()
        app[RESERVATIONS] = cast(Any, SimpleNamespace(of=lambda _: self.reservations))
        app[LIMITER] = cast(Any, self.limiter)
        app[GRABS_IN_FLIGHT], app[POLL_SCHEDULE] = self.in_flight, PollSchedule(100)
        self.pipeline = GrabPipeline(app)
        self.client = Client()

    def submit(
        self, ticket: str | None = None, quantity: int = 1, arrived_at: float | None = None
    ) -> PendingGrab | None:
        if ticket is None:
            expires_at_s = int(time.time()) + 60
            ticket = tickets.issue(
                KEYS, sale_id=SALE.sale_id, buyer_id="ann", expires_at_s=expires_at_s
            )
        return self.pipeline.begin_grab(
            self.client,
            cast(Any, SALE),
            ticket,
            quantity,
            "10.0.0.1",
            (),
            arrived_at=arrived_at,
        )

    @property
    def answers(self) -> list[Any]:
        return self.client.answers


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_won_grab_is_answered_with_its_order(bench: Bench) -> None:
    assert bench.submit(quantity=2) is not None
    assert bench.in_flight.in_flight == 1
    (step,) = bench.reservations.grabs
    assert step.item == Grab("order-1", "ann", 2)
    step.answer(GrabResult(Verdict.ACCEPTED, "order-1"))
    ((verdict, body),) = bench.answers
    assert verdict is Verdict.ACCEPTED
    assert b'"order_id":"order-1"' in body
    assert bench.in_flight.in_flight == 0
    assert bench.limiter.names == [("ann", "10.0.0.1")]


async def test_its_wait_counts_from_its_bytes_to_its_answer_by_verdict(bench: Bench) -> None:
    accepted = metrics.GRAB_SECONDS.labels("accepted")
    count, waited_s = accepted.count, accepted.sum
    arrived_at = asyncio.get_running_loop().time() - 7
    assert bench.submit(arrived_at=arrived_at) is not None
    (step,) = bench.reservations.grabs
    assert step.since >= arrived_at + 7
    step.answer(GrabResult(Verdict.ACCEPTED, "order-1"))

    assert accepted.count == count + 1
    assert accepted.sum >= waited_s + 7


async def test_a_grab_that_a_limit_refuses_counts_apart_from_the_verdicts(bench: Bench) -> None:
    limited, answers = metrics.GRAB_SECONDS.labels("rate_limited"), answers_counted()
    before = limited.count
    bench.limiter.here = LIMITED
    bench.submit()

    assert limited.count == before + 1
    assert answers_counted() == answers


def answers_counted() -> float:
    """Return how many grabs were answered with a verdict, as Prometheus reads it."""
    (family,) = metrics.GRABS.collect()
    return sum(sample.value for sample in family.samples)


async def test_without_a_ticket_it_is_refused_though_there_is_too_much_in_flight(
    bench: Bench,
) -> None:
    bench.in_flight.limit = 0
    assert bench.submit(ticket="k~1~ann~00") is None
    assert bench.answers == [Problem.BAD_TICKET]


async def test_with_too_much_in_flight_it_is_shed_before_anything_is_asked(bench: Bench) -> None:
    bench.in_flight.limit = 0
    assert bench.submit() is None
    assert bench.answers == ["shed"]
    assert bench.limiter.names == bench.reservations.grabs == bench.reservations.look_ups == []
    assert bench.in_flight.in_flight == 0


async def test_F10_while_latched_a_holder_gets_their_order_and_no_limit_is_asked(
    bench: Bench,
) -> None:
    bench.reservations.selling = False
    bench.submit()
    (step,) = bench.reservations.look_ups
    step.answer((Verdict.SOLD_OUT, Holding("order-0", 1)))
    assert bench.answers == [(Verdict.DUPLICATE, b'{"order_id":"order-0","status":"yours"}')]
    assert bench.limiter.names == bench.reservations.grabs == []


async def test_F15_a_look_up_that_sees_units_goes_on_to_the_grab(bench: Bench) -> None:
    bench.reservations.selling = False
    bench.submit()
    bench.reservations.look_ups[0].answer((Verdict.ACCEPTED, None))
    assert bench.answers == []
    assert [step.item.buyer_id for step in bench.reservations.grabs] == ["ann"]


async def test_beyond_a_local_limit_it_is_429_at_once(bench: Bench) -> None:
    bench.limiter.here = LIMITED
    assert bench.submit() is None
    assert bench.answers == [Problem.RATE_LIMITED]
    assert bench.in_flight.in_flight == 0


async def test_a_token_that_had_to_be_asked_for_leads_to_the_grab(bench: Bench) -> None:
    bench.limiter.has_token = False
    bench.submit()
    (ask,) = bench.limiter.asks
    assert ask.item == "ann"
    ask.answer(None)
    assert len(bench.reservations.grabs) == 1


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        ((Verdict.ACCEPTED, None), Problem.RATE_LIMITED),
        ((Verdict.SOLD_OUT, None), Verdict.SOLD_OUT),
        ((Verdict.ACCEPTED, Holding("order-0", 1)), Verdict.DUPLICATE),
    ],
)
async def test_F36_a_refusal_for_want_of_a_token_says_if_the_sale_is_over(
    bench: Bench, found: tuple[Verdict, Holding | None], answer: Any
) -> None:
    bench.limiter.has_token = False
    bench.submit()
    bench.limiter.asks[0].answer(LIMITED)
    bench.reservations.look_ups[0].answer(found)
    (given,) = bench.answers
    assert (given[0] if isinstance(given, tuple) else given) is answer
    assert bench.reservations.grabs == []


async def test_a_quantity_beyond_the_sales_limit_is_named(bench: Bench) -> None:
    bench.submit(quantity=3)
    bench.reservations.grabs[0].answer(GrabResult(Verdict.QUANTITY))
    assert bench.answers == [Problem.BAD_REQUEST]


async def test_F07_an_unknown_outcome_is_unavailable_never_no(bench: Bench) -> None:
    bench.submit()
    bench.reservations.grabs[0].fail(Unavailable("Redis did not answer"))
    assert bench.answers == [Problem.UNAVAILABLE]
    assert bench.in_flight.in_flight == 0


async def test_a_bug_is_logged_and_answered(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.submit()
    bench.reservations.grabs[0].fail(KeyError("oops"))
    assert bench.answers == [Problem.INTERNAL]
    assert "a grab failed" in caplog.text


async def test_a_client_that_left_is_out_of_the_batch_and_gets_no_answer(bench: Bench) -> None:
    pending = bench.submit()
    assert pending is not None
    pending.cancel()
    pending.cancel()  # a second time changes nothing
    (step,) = bench.reservations.grabs
    assert step.gone
    step.answer(GrabResult(Verdict.ACCEPTED, "order-1"))
    assert bench.answers == []
    assert bench.in_flight.in_flight == 0


async def test_a_batch_that_fails_after_it_answered_changes_nothing(bench: Bench) -> None:
    """The step of a look-up may not answer for the grab that has gone on to its next step."""
    bench.reservations.selling = False
    bench.submit()
    (look_up,) = bench.reservations.look_ups
    look_up.answer((Verdict.ACCEPTED, None))
    look_up.fail(Unavailable("too late"))
    assert bench.answers == []
    await asyncio.sleep(0)
    bench.reservations.grabs[0].answer(GrabResult(Verdict.ACCEPTED, "order-1"))
    assert len(bench.answers) == 1


# Traces.


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[FinishedSpan]:
    """Trace into a list: nothing by the rate, and what takes longer than a minute."""
    found: list[FinishedSpan] = []
    SPANS.start(found.append, rate=0.0, slow_s=60.0)
    monkeypatch.setattr(SPANS, "may_be_late", lambda _: True)
    yield found
    SPANS.stop()


def answer(bench: Bench, **submitted: Any) -> None:
    bench.submit(**submitted)
    bench.reservations.grabs[-1].answer(GrabResult(Verdict.ACCEPTED, "order-1"))


async def test_a_quick_grab_that_was_not_chosen_is_no_trace(bench: Bench, traces) -> None:
    answer(bench)
    assert traces == []


async def test_a_chosen_grab_is_traced_and_its_context_is_known_until_its_answer(
    bench: Bench, traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SPANS, "rate", 1.0)
    bench.submit()
    (step,) = bench.reservations.grabs
    context = contexts_of([step.item])["order-1"]
    step.answer(GrabResult(Verdict.ACCEPTED, "order-1"))
    (root,) = traces
    assert (root.context, root.kind, root.error) == (context, SpanKind.SERVER, None)
    assert root.attributes["http.response.status_code"] == 202
    assert root.attributes["seckill.order_id"] == "order-1"
    assert contexts_of([step.item]) == {}


async def test_a_client_whose_grab_leaves_is_forgotten(
    bench: Bench, traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SPANS, "rate", 1.0)
    pending = bench.submit()
    assert pending is not None
    pending.cancel()
    assert contexts_of([bench.reservations.grabs[0].item]) == {}


async def test_a_slow_grab_becomes_a_trace_with_its_true_times(
    bench: Bench, traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SPANS, "slow_s", 0.0)
    answer(bench)
    (root,) = traces
    assert root.attributes["seckill.late"] is True
    assert root.start_ns <= dict(root.events)["parsed"] <= root.end_ns


async def test_a_failed_grab_becomes_a_trace_that_failed(bench: Bench, traces) -> None:
    bench.submit()
    bench.reservations.grabs[0].fail(Unavailable("Redis: gone"))
    (root,) = traces
    assert (root.error, root.attributes["http.response.status_code"]) == ("unavailable", 503)


@pytest.mark.parametrize("verdict", [Verdict.PAUSED, Verdict.SOLD_OUT])
async def test_a_refusal_that_was_meant_is_no_trace(bench: Bench, traces, verdict) -> None:
    bench.submit()
    bench.reservations.grabs[0].answer(GrabResult(verdict))
    assert traces == []


async def test_more_late_traces_than_a_second_may_have_are_not_made(
    bench: Bench, traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SPANS, "may_be_late", lambda _: False)
    bench.submit()
    bench.reservations.grabs[0].fail(Unavailable("Redis: gone"))
    assert traces == []
