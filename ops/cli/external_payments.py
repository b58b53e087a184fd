"""`seckill external-payments`: what the shop's own checkout took, and what of it must go back."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import typer

from ops.cli.console import Json, show
from ops.cli.stores import run
from seckill import audit
from seckill.currencies import amount_text
from seckill.errors import UserMistake
from seckill.payments.external_payments import REFERENCE, ExternalPayment, ExternalPayments

external_payments_app = typer.Typer(
    help="What the shop's own checkout took, and what of it must go back.", no_args_is_help=True
)

#: One page; `--after` goes on.
LISTED_MAX = 1_000


def check_reference(text: str) -> str:
    """Return a reference; raise UserMistake if it cannot be one."""
    if not re.match(REFERENCE, text):
        raise UserMistake(
            f"reference {text!r}: use 1 to 128 of A-Z a-z 0-9 _ . : ~ = + @ -, and begin with a "
            "letter or a digit"
        )
    return text


@external_payments_app.command("list")
def list_payments(
    due: Annotated[bool, typer.Option("--due", help="Only money that must go back.")] = False,
    after: Annotated[int, typer.Option(help="Go on behind this number.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List payments of the shop's own checkout in the order of their reports."""
    found = run(lambda s: ExternalPayments(s.db).page(after=after, due_only=due, limit=LISTED_MAX))
    lines = [_line(each) for each in found]
    if len(found) == LISTED_MAX:
        lines.append(f"there may be more: --after {found[-1].number}")
    show([asdict(each) for each in found], as_json, *lines)


@external_payments_app.command("refunded")
def note_refund(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE", help="The shop's own reference.", callback=check_reference
        ),
    ],
    as_json: Json = False,
) -> None:
    """Note that the shop has sent the money of a payment back; a second time changes nothing."""
    actor = audit.operator_name()
    payment = run(lambda s: ExternalPayments(s.db).send_back(reference, actor=actor))
    show(asdict(payment), as_json, _line(payment))


def _line(payment: ExternalPayment) -> str:
    why = f" ({payment.reason})" if payment.reason else ""
    amount = amount_text(payment.amount_cents, payment.currency)
    return (
        f"{payment.number:>8}  {payment.reference}  {amount}  {payment.state}{why}  "
        f"order {payment.order_id}  {payment.reported_at.isoformat(timespec='seconds')}"
    )
