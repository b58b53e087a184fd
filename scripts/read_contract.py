"""Write what users and operators rely on in a source tree to files: read_contract.py TREE OUT.

No store is opened. A thing is read from the running code and not from the source, so that it may
move from file to file and be renamed there. Where a module has moved, MODULES has both names.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pkgutil
import re
import sys
import tomllib
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

#: What is read -> the modules that it may be in, the newest place first.
MODULES = {
    "openapi": ("gateway.http.openapi", "gateway.openapi"),
    "admin": ("gateway.admin.app", "gateway.admin"),
    "cli": ("ops.cli.main", "ops.cli"),
    "keys": ("seckill.adapters.redis_keys", "seckill.keys"),
    "topology": ("seckill.adapters.topology", "seckill.topology"),
}
PACKAGES = ("config", "consumers", "gateway", "ops", "seckill")
#: Wide enough for no line of help to depend on it.
COLUMNS = "200"


def load(what: str) -> ModuleType:
    """Import the module, from the newest place that the tree has."""
    for name in MODULES[what]:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                raise
    raise ModuleNotFoundError(f"none of {', '.join(MODULES[what])}")


def as_json(value: object) -> str:
    """Return JSON with a line for each value."""
    return json.dumps(value, indent=1, default=str)


def openapi() -> str:
    """Return /openapi.json."""
    document = load("openapi").build(import_module("gateway.app").ROUTES)
    return as_json(json.loads(document))


def admin() -> str:
    """Return the routes of the admin port."""
    from config.settings import Settings

    key = "k1:" + "s" * 32
    edge = import_module("gateway.app").create_app(Settings(ticket_keys=key, jwt_keys=key))
    routes = load("admin").create_admin_app(edge).router.routes()
    found = {f"{r.method} {r.resource.canonical}" for r in routes if r.resource is not None}
    return "\n".join(sorted(found))


def help_texts() -> str:
    """Return `--help` of every command, and what the command says of its exit codes."""
    import typer

    cli = load("cli")
    if not (root := getattr(cli, "root", None)):  # a tree whose main() registers, then calls
        apps: list[typer.Typer] = []
        typer.Typer.__call__ = lambda app, *_, **__: apps.append(app)
        cli.main()
        root = typer.main.get_command(apps[0])
    os.environ |= {"COLUMNS": COLUMNS, "TERMINAL_WIDTH": COLUMNS, "NO_COLOR": "1"}
    texts = [line for line in (cli.__doc__ or "").splitlines() if line.startswith("Exit codes")]

    def visit(command: object, path: list[str]) -> None:
        with redirect_stdout(StringIO()) as output:
            root.main([*path, "--help"], prog_name="seckill", standalone_mode=False)
        texts.append(f"$ seckill {' '.join([*path, '--help'])}\n{output.getvalue()}")
        if isinstance(command, typer.core.TyperGroup):
            context = command.make_context(None, [], resilient_parsing=True)
            for name in sorted(command.list_commands(context)):
                visit(command.resolve_command(context, [name])[1], [*path, name])

    visit(root, [])
    return "\n".join(texts)


def metrics() -> str:
    """Return name, type, labels and buckets of each metric that any module declares."""
    from prometheus_client import REGISTRY

    for package in PACKAGES:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    found = []
    for metric in REGISTRY._collector_to_names:
        if module_is_ours(type(metric)):  # a counter of our own, for the hot path
            (family,) = metric.collect()
            found.append(f"{family.name} {family.type} {list(metric._labels)}")
        elif hasattr(metric, "_labelnames"):
            buckets = getattr(metric, "_upper_bounds", None) or metric._kwargs.get("buckets", "")
            found.append(f"{metric._name} {metric._type} {list(metric._labelnames)} {buckets}")
    return "\n".join(sorted(line.strip() for line in found))


def module_is_ours(thing: type) -> bool:
    """Return whether a class is defined in the tree."""
    return thing.__module__.partition(".")[0] in PACKAGES


def keys() -> str:
    """Return every Redis key and channel, with A, B … in place of the names of a sale and so on."""
    module, found = load("keys"), set()
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            parameters = inspect.signature(function).parameters.values()
            kinds = ["int" in str(parameter.annotation) for parameter in parameters]
            given = [0 if is_int else "ABCD"[n] for n, is_int in enumerate(kinds)]
            found.add(function(*given))
    return "\n".join(sorted(found - {None}))


class Channel:
    """Stands in for a channel to RabbitMQ, and writes down what is declared and bound."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def declare_exchange(self, name: str, kind: str, **options: object) -> Channel.Declared:
        """Note an exchange."""
        return self.declared("exchange", f"{name} {kind}", options)

    async def get_underlay_channel(self) -> SimpleNamespace:
        """Return the library's channel, to a broker that does not tell its version."""
        return SimpleNamespace(connection=SimpleNamespace(server_properties={}))

    async def declare_queue(self, name: str = "(any)", **options: object) -> Channel.Declared:
        """Note a queue."""
        return self.declared("queue", name, options)

    def declared(self, kind: str, name: str, options: dict[str, object]) -> Channel.Declared:
        """Note what was declared."""
        self.lines.append(f"{kind} {name} {json.dumps(options, sort_keys=True)}")
        return Channel.Declared(self, name)

    class Declared:
        """Stands in for an exchange or a queue."""

        def __init__(self, channel: Channel, name: str) -> None:
            self.channel, self.name = channel, name

        async def bind(self, exchange: Channel.Declared, routing_key: str = "") -> None:
            """Note a binding."""
            self.channel.lines.append(f"bind {self.name} to {exchange.name} by {routing_key}")


def queues() -> str:
    """Return every exchange, queue and binding with its arguments."""
    module, channel = load("topology"), Channel()

    async def declare() -> None:
        declared = await module.declare(channel)
        await module.declare_timer(channel, declared.exchange, 900)
        await module.declare_view(channel, "order.*", 1000)

    asyncio.run(declare())
    return "\n".join(sorted(set(channel.lines)))


def messages() -> str:
    """Return the fields of each message and event, with types and defaults."""
    import msgspec

    found = set()
    for name in ("seckill.messages", "seckill.events"):
        for thing in vars(import_module(name)).values():
            if isinstance(thing, type) and issubclass(thing, msgspec.Struct):
                for schema in msgspec.json.schema(thing)["$defs"].values():
                    fields = as_json(schema.get("properties") or schema["prefixItems"])
                    found.add(re.sub(r"#/\$defs/\w+", "a part", fields))  # classes have new names
    return "\n".join(sorted(found))


def settings() -> str:
    """Return the settings, and the limits that ship with the product."""
    from config.settings import PROJECT_ROOT, Settings

    schema = Settings.model_json_schema()
    schema["limits"] = tomllib.loads((PROJECT_ROOT / "config" / "limits.toml").read_text())
    return as_json(schema).replace(str(PROJECT_ROOT), "PROJECT")


SECTIONS = {
    "openapi.json": openapi,
    "admin.txt": admin,
    "help.txt": help_texts,
    "metrics.txt": metrics,
    "keys.txt": keys,
    "queues.txt": queues,
    "messages.txt": messages,
    "settings.json": settings,
}


def main(tree: Path, out: Path) -> None:
    """Write a file for each section."""
    # The environment's editable install would find here what the other tree does not have.
    sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in str(f.__module__)]
    sys.path[0] = str(tree)
    os.chdir(tree)
    for name in [name for name in os.environ if name.startswith("SECKILL_")]:
        del os.environ[name]
    out.mkdir()
    for name, read in SECTIONS.items():
        (out / name).write_text(read() + "\n")
    strange = {
        name: file
        for name, module in sys.modules.items()
        if name.partition(".")[0] in PACKAGES
        and (file := getattr(module, "__file__", None))
        and not Path(file).is_relative_to(tree)
    }
    if strange:
        raise RuntimeError(f"not from {tree}: {strange}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
