"""`seckill tx`: what an operator sees and does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import asyncpg
import pytest

from config.settings import Settings
from seckill.transactions import attempts, tcc
from seckill.transactions.states import BranchCall, BranchOp, TransactionState
from tests.transactions import new_id

Tx = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tx(settings: Settings) -> Tx:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", "tx", *arguments],
            env={
                "PYTHONPATH": ":".join(sys.path),
                "SECKILL_REDIS_URL": settings.redis_url,
                "SECKILL_AMQP_URL": settings.amqp_url,
                "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
                "COLUMNS": "250",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
async def parked(bench, probe, monkeypatch) -> BranchCall:
    """A transaction whose wallet could not confirm, and has stopped trying."""
    monkeypatch.setattr(tcc, "ATTEMPTS_MAX", 1)
    monkeypatch.setattr(attempts, "TRIES", 1)
    probe.faults["wallet", BranchOp.CONFIRM] = [ArithmeticError("a bug")]
    call = BranchCall(new_id(), {"cents": 5})
    assert (await bench.coordinator().submit(*call)).state is TransactionState.CONFIRMING
    return call


def test_a_parked_transaction_is_listed_and_shown(tx, parked):
    listed = json.loads(tx("list", "--json").stdout)
    assert parked.tx_id in [each["tx_id"] for each in listed]
    text = tx("list", "--state", "failed").stdout
    assert parked.tx_id in text
    assert "ArithmeticError: a bug" in text
    shown = json.loads(tx("show", parked.tx_id, "--json").stdout)
    assert (shown["state"], shown["parked_in"]) == ("FAILED", "CONFIRMING")
    assert shown["args"] == {"cents": 5}
    operations = {(b["branch"], b["op"]): (b["attempts"], b["error"]) for b in shown["branches"]}
    assert operations["wallet", "confirm"] == (1, "ArithmeticError: a bug")
    assert operations["stock", "try"] == (1, None)
    text = tx("show", parked.tx_id).stdout
    assert "FAILED while CONFIRMING" in text
    assert "ArithmeticError: a bug" in text


async def test_retry_lets_recovery_go_on(tx, parked, bench, probe, db):
    done = tx("retry", parked.tx_id)
    assert (done.returncode, done.stdout) == (0, f"{parked.tx_id} goes on: CONFIRMING\n")
    await bench.recovery().run_once()
    assert await probe.states([parked]) == [(TransactionState.CONFIRMED, None)]
    await probe.assert_whole(bench.names, [parked])
    assert await _audited(db, parked) == ["tx.retry"]
    again = tx("retry", parked.tx_id)
    assert again.returncode == 2
    assert again.stderr == (
        f"seckill: {parked.tx_id} has ended: CONFIRMED; there is nothing to retry\n"
    )


async def test_settling_closes_it_and_leaves_a_trace(tx, parked, probe, db):
    done = tx("settle", parked.tx_id, "--to", "canceled", "--reason", "charged by phone", "--json")
    assert json.loads(done.stdout)["state"] == "CANCELED"
    assert await probe.states([parked]) == [
        (TransactionState.CANCELED, "by hand: charged by phone")
    ]
    assert await _audited(db, parked) == ["tx.settle"]
    again = tx("settle", parked.tx_id, "--to", "confirmed", "--reason", "no, after all")
    assert again.returncode == 2
    assert "not parked" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("show", "no-such"), "no transaction no-such"),
        (("retry", "no-such"), "no transaction no-such"),
        (("settle", "no-such", "--to", "confirmed", "--reason", "x"), "no transaction no-such"),
        (("settle", "no-such", "--to", "maybe", "--reason", "x"), "maybe"),
        (("settle", "no-such", "--to", "confirmed", "--reason", " "), "say why"),
        (("settle", "no-such", "--to", "confirmed"), "--reason"),
        (("list", "--state", "odd"), "odd"),
    ],
)
def test_what_was_typed_wrong_is_one_line_without_a_traceback(tx, arguments, complaint):
    done = tx(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


async def _audited(db: asyncpg.Pool, call: BranchCall) -> list[str]:
    rows = await db.fetch(
        "SELECT action FROM audit WHERE details->>'tx_id' = $1 ORDER BY audit_id", call.tx_id
    )
    return [row["action"] for row in rows]
