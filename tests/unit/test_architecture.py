"""The arrows of DESIGN.md section 4, read off the source."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Package -> the other packages of ours that it may import.
MAY_IMPORT = {
    "config": set(),
    "lua": set(),
    "seckill": {"lua", "config"},
    "gateway": {"seckill", "lua", "config"},
    "consumers": {"seckill", "lua", "config"},
    "ops": {"gateway", "consumers", "seckill", "lua", "config"},
    "loadtest": {"ops", "gateway", "consumers", "seckill", "lua", "config"},
}
SOURCES = {
    path: ast.parse(path.read_text()) for p in MAY_IMPORT for path in (ROOT / p).rglob("*.py")
}
FILES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in SOURCES]


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imports_of(path: Path) -> set[str]:
    """Return the dotted names of all that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays in its package: the packages are flat.
            module = node.module or "" if not node.level else package_of(path)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def strings_of(path: Path) -> Iterator[str]:
    """Yield the string literals of a file, parts of f-strings included, docstrings not."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(SOURCES[path])
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def files_with(literal: re.Pattern[str]) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(literal.search(text) for text in strings_of(path))
    }


def test_every_package_is_under_the_rules() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("path", FILES)
def test_imports_go_one_way(path: Path) -> None:
    package = package_of(path)
    used = {name.split(".")[0] for name in imports_of(path)} & MAY_IMPORT.keys()
    assert used - {package} <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", [p for p in FILES if package_of(p.values[0]) == "seckill"])
def test_the_kernel_knows_neither_aiohttp_nor_processes(path: Path) -> None:
    processes = r"subprocess|multiprocessing|asyncio\.(create_)?subprocess"
    # One file calls other services; nothing in here serves.
    http = r"aiohttp\.web" if path == ROOT / "seckill/adapters/http.py" else "aiohttp"
    banned = re.compile(f"{http}|{processes}")
    calls = {ast.unparse(n.func) for n in ast.walk(SOURCES[path]) if isinstance(n, ast.Call)}
    assert [name for name in imports_of(path) | calls if banned.match(name)] == []


@pytest.mark.parametrize("path", [p for p in FILES if package_of(p.values[0]) != "ops"])
def test_only_the_settings_read_the_environment(path: Path) -> None:
    attributes = {ast.unparse(n) for n in ast.walk(SOURCES[path]) if isinstance(n, ast.Attribute)}
    readers = {"os.environ", "os.environb", "os.getenv"} & (attributes | imports_of(path))
    assert path == ROOT / "config/settings.py" or not readers


def test_locust_needs_nothing_of_what_the_gateway_needs() -> None:
    """Its virtual environment has locust, and with it gevent, and PyJWT: no more."""
    seen: set[Path] = set()
    waiting, outside = [ROOT / "loadtest/locust_crowd/locustfile.py"], set()
    while waiting:
        seen.add(path := waiting.pop())
        for name in imports_of(path):
            parts = name.split(".")
            ours = {ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(1, len(parts) + 1)}
            ours.add(ROOT / parts[0] / "__init__.py")
            ours &= SOURCES.keys()
            waiting += ours - seen
            if not ours:
                outside.add(parts[0])
    assert outside - sys.stdlib_module_names == {"gevent", "jwt", "locust"}


def test_redis_keys_are_made_in_one_file() -> None:
    assert files_with(re.compile(r"\bsk:")) == {"seckill/adapters/redis_keys.py"}


def test_queues_are_named_in_one_file() -> None:
    queue = re.compile(r"^(orders|payments|saga|retry)\.[a-z0-9]|\.dead$|^seckill\.events$")
    assert files_with(queue) == {"seckill/adapters/topology.py"}


def test_scripts_name_keys_in_their_headers_only() -> None:
    bodies = [
        line
        for path in (ROOT / "lua").glob("*.lua")
        for line in path.read_text().splitlines()
        if not line.startswith("--")
    ]
    assert bodies
    assert [line for line in bodies if "sk:" in line] == []
