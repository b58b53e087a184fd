"""`seckill shop-token`: tokens for the shop's own programs, which call `/shop/v1`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ops.cli.console import Json, check_id, show, table
from ops.cli.stores import run
from seckill import audit
from seckill.errors import UserMistake
from seckill.shop import tokens

_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}

shop_token_app = typer.Typer(
    help="Make, list and revoke tokens of the shop's own programs.", no_args_is_help=True
)
_SCOPES = ", ".join(tokens.Scope)


@shop_token_app.command("create")
def create_token(
    name: Annotated[
        str,
        typer.Option(help="Which program has it; the audit trail names it so.", callback=check_id),
    ],
    scope: Annotated[list[str], typer.Option(help=f"What it may do, once for each: {_SCOPES}.")],
    expires_in: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="It ends after so long: 90d, 12h, 30m; else never."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token and print it, once: only its digest is kept."""
    lasts, by = None if expires_in is None else _duration(expires_in), audit.operator_name()
    token = run(lambda s: tokens.create(s.db, name, scope, by=by, expires_in=lasts))
    typer.echo(f"seckill: keep it now, it is shown only here; send: Bearer {token[:16]}…", err=True)
    show({"name": name, "scopes": sorted(set(scope)), "token": token}, as_json, token)


@shop_token_app.command("list")
def list_tokens(as_json: Json = False) -> None:
    """List all tokens that ever were, newest first."""
    found = run(lambda s: tokens.list_(s.db))
    rows = [
        (
            each.name,
            " ".join(each.scopes),
            _moment(each.created_at),
            each.created_by,
            _moment(each.revoked_at),
            _moment(each.expires_at) + (", over" if each.is_over else ""),
        )
        for each in found
    ]
    columns = ("name", "scopes", "made", "by", "revoked", "ends")
    show([each._asdict() for each in found], as_json, table(*columns, rows=rows))


@shop_token_app.command("revoke")
def revoke_token(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The token's name.", callback=check_id)
    ],
    as_json: Json = False,
) -> None:
    """Refuse a token from now on: every gateway knows within seconds."""
    changed = run(lambda s: tokens.revoke(s.db, name, by=audit.operator_name()))
    what = f"every gateway refuses it within {tokens.FRESH_S:g} s" if changed else "it was before"
    show({"name": name, "changed": changed}, as_json, f"token {name} is revoked; {what}")


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", text)
    if not found:
        raise UserMistake(f"--expires-in {text!r}: give a number and d, h or m, such as 90d")
    return int(found[1]) * _UNITS[found[2]]


def _moment(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else "-"
