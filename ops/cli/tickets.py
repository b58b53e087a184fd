"""`seckill ticket` and `seckill token`: what buyers carry, made by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from config.settings import load_settings
from ops.cli.console import BuyerId, check_id, open_output
from seckill.auth import login_tokens, tickets
from seckill.auth.key_ring import KeyRing
from seckill.errors import UserMistake


def ticket(
    sale_id: Annotated[
        str, typer.Argument(metavar="SALE", help="The sale's id.", callback=check_id)
    ],
    buyer_id: Annotated[str | None, typer.Argument(metavar="BUYER", help="The buyer's id.")] = None,
    count: Annotated[int, typer.Option(help="Make this many, for load tools.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="File for --count; else the terminal.")] = None,
    ttl: Annotated[int, typer.Option(help="Seconds that a ticket is good for.", min=1)] = 86_400,
) -> None:
    """Make a ticket, or with --count a file of them: one `BUYER<TAB>TICKET` a line."""
    if (buyer_id is None) == (count == 0):
        raise UserMistake("give either a buyer or --count")
    keys = _key_ring("ticket_keys")
    expires_at_s = int(time.time()) + ttl
    if buyer_id is not None:
        typer.echo(
            tickets.issue(keys, sale_id=sale_id, buyer_id=buyer_id, expires_at_s=expires_at_s)
        )
        return
    with open_output(out) as file:
        for number in range(1, count + 1):
            buyer = f"buyer-{number:07d}"
            made = tickets.issue(keys, sale_id=sale_id, buyer_id=buyer, expires_at_s=expires_at_s)
            file.write(f"{buyer}\t{made}\n")


def token(
    buyer_id: BuyerId,
    ttl: Annotated[int, typer.Option(help="Seconds that it is good for.", min=1)] = 86_400,
) -> None:
    """Make a login token (JWT) for development: a shop's own login issues the real ones."""
    expires_at_s = int(time.time()) + ttl
    typer.echo(
        login_tokens.issue(_key_ring("jwt_keys"), buyer_id=buyer_id, expires_at_s=expires_at_s)
    )


def _key_ring(name: str) -> KeyRing:
    settings = load_settings()
    settings.require(name)
    secret = getattr(settings, name).get_secret_value()
    return KeyRing.parse(secret, setting=f"SECKILL_{name.upper()}")
