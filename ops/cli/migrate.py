"""`seckill migrate`: make the tables of a database, or bring them up to date."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from config.settings import load_settings
from ops.cli.console import Json, show
from seckill.adapters import migrations
from seckill.errors import NotReady


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 unless it is up to date.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the tables of the database, or bring them up to date; it may run at any time."""
    settings = load_settings()
    settings.require("postgres_dsn")
    if not check:
        applied = asyncio.run(migrations.migrate(settings.postgres_dsn))
        return show({"applied": applied}, as_json, *(applied or ["up to date"]))
    found = asyncio.run(migrations.look(settings.postgres_dsn))
    state = {"up_to_date": not found.fault, **asdict(found)}
    show(state, as_json, *([] if found.fault else ["up to date"]))
    if found.fault:
        raise NotReady(found.fault)
    return None
