"""The `seckill` command: the table of its commands, and what an error becomes.

Exit codes: 0 it worked, 1 a check failed or something does not run, 2 it was not typed right.
A command's module is imported when the command is used, so that `--help` and `status` are quick.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context

#: Command -> the function or group behind it, and the first line of its help.
COMMANDS = {
    "up": ("ops.cli.stack:up", "Start everything: private stores, gateways, consumers."),
    "down": ("ops.cli.stack:down", "Stop everything that `up` started."),
    "status": (
        "ops.cli.stack:status",
        "Show what runs; exit 1 when nothing does, or no pool of consumers.",
    ),
    "env": (
        "ops.cli.stack:env",
        'Print the addresses and the admin token, for `eval "$(seckill env)"`.',
    ),
    "migrate": (
        "ops.cli.migrate:migrate",
        "Make the tables of the database, or bring them up to date; it may run at any time.",
    ),
    "gateway": ("ops.cli.stack:gateway", "Serve buyers, in the foreground."),
    "consumers": (
        "ops.cli.stack:consumers",
        "Do the work behind the gateway, in the foreground: by all roles, or those named.",
    ),
    "ticket": (
        "ops.cli.tickets:ticket",
        "Make a ticket, or with --count a file of them: one `BUYER<TAB>TICKET` a line.",
    ),
    "token": (
        "ops.cli.tickets:token",
        "Make a login token (JWT) for development: a shop's own login issues the real ones.",
    ),
    "verify": (
        "ops.cli.verify:verify",
        "Count the ledger of a sale from the stores; exit 1 unless it balances.",
    ),
    "trace": (
        "ops.cli.trace:trace",
        "Print the trace of an order: what happened to it, where, when and for how long.",
    ),
    "events": (
        "ops.cli.events:events",
        "Print events of orders and Sagas as they happen, one line of JSON each, until Ctrl-C.",
    ),
    "reconcile": (
        "ops.cli.reconcile:reconcile",
        "Compare the stores order by order, twice; exit 1 when something is left to be done.",
    ),
    "wallet": (
        "ops.cli.payments:wallet",
        "Show a buyer's wallet, or put money in: a shop has its own way to be paid.",
    ),
    "coupon": (
        "ops.cli.payments:coupon",
        "List a buyer's coupons, or hand one out with --add ID --cents N.",
    ),
    "refund": (
        "ops.cli.payments:refund",
        "Take a paid order back: its units are for sale again; money and coupon go back.",
    ),
    "unknown-payments": (
        "ops.cli.payments:unknown_payments",
        "List the card payments that the provider is still to be asked about, oldest first.",
    ),
    "external-payments": (
        "ops.cli.external_payments:external_payments_app",
        "What the shop's own checkout took, and what of it must go back.",
    ),
    "provider": (
        "ops.cli.provider:provider",
        "Play a card provider, in the foreground; GET /books shows what each key was charged.",
    ),
    "shop-token": (
        "ops.cli.shop_tokens:shop_token_app",
        "Make, list and revoke tokens of the shop's own programs.",
    ),
    "order": ("ops.cli.orders:order_app", "Show what the stores have of one order."),
    "plan": (
        "ops.cli.plan:plan",
        "Plan gateways, consumers and stores for a sale, from what a grab was measured to cost.",
    ),
    "sale": ("ops.cli.sales:sale_app", "Make, run and show sales."),
    "dead": (
        "ops.cli.dead_letters:dead_app",
        "Dead letters: messages that could not succeed, and what to do with them.",
    ),
    "pool": ("ops.cli.pool:pool_app", "See, scale, pause, drain and repair consumers."),
    "webhook": (
        "ops.cli.webhooks:webhook_app",
        "Send events to addresses of the shop; see, test, rotate and repair that.",
    ),
    "tx": ("ops.cli.transactions:tx_app", "Show, retry and settle transactions."),
}


def load(name: str) -> Command:
    """Import a command of the table."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    app = typer.Typer(add_completion=False)
    app.command(name)(found)
    return typer.main.get_command(app)


class Commands(TyperGroup):
    """The commands of the table; one is imported when it is about to run."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - as the base class has it
        super().__init__(**attributes)
        for name, (_, first_line) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=first_line))

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Return the command that was typed, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True)


def _print_version(asked: bool) -> None:
    if asked:
        # Imported here: it takes a tenth of what `--help` takes.
        from importlib.metadata import version

        typer.echo(f"seckill-gateway {version('seckill-gateway')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """A flash-sale gateway."""  # noqa: D401 - the first line of `--help`


root = cast("Commands", typer.main.get_command(app))


def main() -> None:
    """Run the command line; an expected failure is one line on stderr, never a traceback."""
    # The driver logs each failed connect as an error; the line below explains it better.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    if isinstance(sys.stdout, TextIOWrapper):  # None where it was closed
        # A terminal that knows no such letter shows its number, and is no bug.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        root.main()
    except Exception as error:
        from ops.cli.errors import explained

        if (explanation := explained(error)) is None:
            raise
        line, code = explanation
        typer.echo(f"seckill: {line}", err=True)
        sys.exit(code)
