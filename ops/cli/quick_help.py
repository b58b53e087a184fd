"""`--help` without what does the work: large libraries are stand-ins while help is printed.

Help needs the options of a command and no store. But each command's module imports what carries it
out, and the libraries beneath that take a second of CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typer._click import Command

HELP = "--help"
#: What nothing but work needs, ours included: no option has its type, its default or a word of its
#: help from them.
WORK = frozenset(
    {
        "aio_pika",
        "aiohttp",
        "aiormq",
        "asyncpg",
        "cryptography",
        "jwt",
        "opentelemetry",
        "prometheus_client",
        "pydantic_settings",
        "redis",
        "uvloop",
        "seckill.adapters",
        "seckill.consistency",
        "seckill.inventory",
        "seckill.tracing",
    }
)


def is_asked(words: Sequence[str]) -> bool:
    """Tell whether help is what the words of a command line ask for."""
    typed = words[: words.index("--")] if "--" in words else words
    return HELP in typed


def load_for_help(load: Callable[[], Command]) -> Command:
    """Return what `load` imports, fit to print its help; with stand-ins, if they do."""
    finder, before = _StandInFinder(), set(sys.modules)
    sys.meta_path.insert(0, finder)
    try:
        return _forbid_work(load())
    except Exception:  # a module that does more with a library than name it
        sys.meta_path.remove(finder)
        for name in sys.modules.keys() - before:
            del sys.modules[name]
        return load()


def _forbid_work(command: Command) -> Command:
    """Return a command that can print its help alone.

    `--reason --help` gives a reason and asks for nothing; with stand-ins it cannot be done.
    """
    below = getattr(command, "commands", {})
    if not below:
        command.callback = _refuse
    for each in below.values():
        _forbid_work(each)
    return command


def _refuse(*_: object, **__: object) -> NoReturn:
    from seckill.errors import UserMistake  # here: `seckill --help` does without

    raise UserMistake(f"{HELP} is no value here; type {HELP} alone, or another value")


class _AnyName(type):
    """Of a class that has every attribute, and can be called, subscripted and joined to others."""

    def __getattr__(cls, name: str) -> Any:  # noqa: ANN401 - whatever a library may have
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, _: object) -> Any:  # noqa: ANN401
        return cls

    def __or__(cls, _: object) -> Any:  # noqa: ANN401
        return cls

    __ror__ = __or__

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


class _StandIn(metaclass=_AnyName):
    """Anything that a library has."""

    def __new__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401
        return cls if cls is _StandIn else super().__new__(cls)

    def __init_subclass__(cls, **_: object) -> None:
        """Take the keywords that a class of the library would take."""


class _StandInModule(ModuleType):
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn


class _StandInFinder(MetaPathFinder, Loader):
    def find_spec(self, name: str, *__: object) -> ModuleSpec | None:
        first, second, *_ = *name.split("."), ""
        is_work = first in WORK or f"{first}.{second}" in WORK
        return ModuleSpec(name, self, is_package=True) if is_work else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""
