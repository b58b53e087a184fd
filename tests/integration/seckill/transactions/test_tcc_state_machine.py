"""Random interleavings of tries, confirms, cancels, duplicates, late tries, lost replies and kills.

After each run recovery finishes what was left; then every try has one confirm or one cancel (I8).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    multiple,
    rule,
    run_state_machine_as_test,
)

from config.settings import Settings
from seckill.adapters import postgres
from seckill.backoff import Backoff
from seckill.errors import Unavailable
from seckill.transactions import attempts
from seckill.transactions.states import BranchCall, BranchOp, TransactionState
from tests.transactions import (
    LATE_OPS,
    Fuse,
    MortalPool,
    Probe,
    TransactionBench,
    new_calls,
    run_together,
)

BRANCHES = ("stock", "wallet", "coupon")
#: Points at which a process dies; None lives. A batch passes about 60.
deaths = strategies.one_of(strategies.none(), strategies.integers(0, 60))
branches = strategies.sampled_from(BRANCHES)


class Transactions(RuleBasedStateMachine):
    """One definition, any number of coordinators and recoverers."""

    calls: Bundle[BranchCall] = Bundle("calls")

    def __init__(self, runner: asyncio.Runner, pool: asyncpg.Pool) -> None:
        super().__init__()
        self._runner = runner
        self._pool = pool
        self._probe = Probe(pool)
        self._bench = TransactionBench(self._probe, BRANCHES)
        self._all: list[BranchCall] = []

    def _mortal(self, dies_at: int | None) -> MortalPool:
        return MortalPool(self._pool, Fuse(dies_at))

    def _run(self, *processes: Awaitable[object]) -> None:
        run_together(self._runner, *processes)

    @rule(
        target=calls,
        winners=strategies.integers(0, 2),
        refused=strategies.lists(
            strategies.tuples(strategies.sampled_from(["refuses", "refuses_once"]), branches),
            max_size=2,
        ),
        dies_at=deaths,
    )
    def submit(self, winners: int, refused: list[tuple[str, str]], dies_at: int | None) -> object:
        batch = new_calls(winners)
        for how, name in refused:
            batch += new_calls(1, **{how: f"{name} try"})
        self._all += batch
        if batch:
            self._run(self._submit(batch, dies_at))
        return multiple(*batch)

    @rule(call=calls, dies_at=deaths)
    def submit_again(self, call: BranchCall, dies_at: int | None) -> None:
        self._run(self._submit([call], dies_at))

    @rule(
        name=branches, op=strategies.sampled_from([BranchOp.TRY, BranchOp.CONFIRM, BranchOp.CANCEL])
    )
    def a_branch_will_be_unavailable(self, name: str, op: BranchOp) -> None:
        self._probe.faults[name, op] += [Unavailable("no answer")] * attempts.TRIES

    @rule(call=calls, name=branches, number=strategies.integers(0, 1), dies_at=deaths)
    def a_message_comes_late(
        self, call: BranchCall, name: str, number: int, dies_at: int | None
    ) -> None:
        self._run(self._late(call, name, number, dies_at))

    @rule(dies_at=deaths)
    def recover(self, dies_at: int | None) -> None:
        self._run(self._recover(dies_at))

    @rule(call=calls, name=branches, dies_at=strategies.tuples(deaths, deaths))
    def all_at_once(
        self, call: BranchCall, name: str, dies_at: tuple[int | None, int | None]
    ) -> None:
        self._run(
            self._recover(dies_at[0]),
            self._recover(dies_at[1]),
            self._late(call, name, 0, None),
            self._late(call, name, 1, None),
        )

    async def _submit(self, batch: list[BranchCall], dies_at: int | None) -> None:
        await self._bench.coordinator(self._mortal(dies_at)).run(batch)

    async def _late(self, call: BranchCall, name: str, number: int, dies_at: int | None) -> None:
        ((state, _),) = await self._probe.states([call])
        if state:
            ops = LATE_OPS[TransactionState(state)]
            branch = self._probe.branch(name, self._mortal(dies_at))
            await branch.run(ops[number % len(ops)], [call])

    async def _recover(self, dies_at: int | None) -> None:
        await self._probe.make_due(self._all)
        await self._bench.recovery(self._mortal(dies_at)).run_once()

    def teardown(self) -> None:
        self._probe.faults.clear()
        self._runner.run(self._recover(None))
        self._runner.run(self._probe.assert_whole(BRANCHES, self._all))


@pytest.fixture
def runner(settings: Settings) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def pool(runner: asyncio.Runner, settings: Settings) -> Iterator[asyncpg.Pool]:
    """Connections for the machine's own loop: its rules cannot be coroutines."""
    opened = contextlib.AsyncExitStack()
    found = runner.run(
        opened.enter_async_context(postgres.connect(settings.postgres_dsn, size=8, timeout_s=60))
    )
    runner.run(Probe(found).create())
    yield found
    runner.run(opened.aclose())


@pytest.mark.timeout(600)
def test_I8_whatever_happens_in_any_order(runner, pool, monkeypatch):
    monkeypatch.setattr(attempts, "BACKOFF", Backoff(0.0, 0.2))
    run_state_machine_as_test(
        lambda: Transactions(runner, pool),
        settings=settings(
            max_examples=100,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
