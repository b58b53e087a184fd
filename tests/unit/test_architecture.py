"""The arrows between packages and between their wings, read off the source."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Package -> what it may import of other packages of ours: a package, or a room in one.
PACKAGES = {
    "config": "",
    "lua": "",
    "seckill": "lua config",
    "seckill_client": "",
    "gateway": "seckill config",
    "consumers": "seckill config",
    "ops": "gateway.server consumers.main seckill seckill_client config",
    "loadtest": "ops gateway.grabs gateway.http gateway.overload seckill seckill_client config",
}
#: The rooms of each package, lowest first, and which others of the package each may import. A room
#: is a wing (a folder with all that is in it) or a file beside the wings.
ROOMS = {
    "gateway": {
        "http": "",
        "overload": "http",
        "grabs": "http overload",
        "sales": "http overload grabs",
        "orders": "http overload grabs",
        "payments": "http overload orders",
        "admin": "http grabs sales",
        "shop": "http overload orders sales",
    },
    "consumers": {"runtime": "", "roles": "runtime"},
    "seckill": {
        "sql": "",
        "adapters": "",
        "tracing": "adapters",
        "auth": "",
        "inventory": "adapters",
        "messages": "adapters inventory",
        "orders": "adapters inventory tracing",
        "transactions": "adapters messages",
        "payments": "adapters auth tracing transactions",
        "sales": "adapters auth inventory",
        "dead_letters": "adapters auth inventory messages orders sales",
        "consistency": "adapters inventory messages orders payments sales dead_letters",
        "health": "adapters inventory sales consistency",
        "registry": "adapters",
        "shop": "adapters auth orders",
        "webhooks": "adapters",
    },
    "ops": {
        "processes": "",
        "pool": "processes",
        "stack": "processes",
        "readiness": "",
        "cli": "processes pool stack readiness",
    },
    "loadtest": {
        "crowd": "",
        "bench": "crowd",
        "store_states": "",
        "drills": "store_states crowd bench",
        "locust_crowd": "",
    },
    "config": {},
    "lua": {},
    "seckill_client": {},
}
#: Files beneath the wings of a package, which every room may import: they import no wing.
BENEATH = {
    "gateway": "app_keys",
    "consumers": "resources timers",
    "seckill": "admin_port audit backoff clock currencies errors events hot_metrics metrics"
    " micro_batcher log_lines order_ids outages process single_flight spans stage_times tasks",
    "ops": "buyers sandbox_provider sizing",
    "loadtest": "findings proxy stack",
    "seckill_client": "answers buyer client clock errors events order_watch proof_of_work retries"
    " transport views",
    "config": "addresses field_types limits redis_url settings",
}
#: Files above the wings, which put them together: no wing may import them.
ABOVE = {
    "gateway": "app resources server tls",
    "consumers": "admin heartbeat main registry",
    "ops": "demo",
}

SOURCES = {path: ast.parse(path.read_text()) for p in PACKAGES for path in (ROOT / p).rglob("*.py")}
FILES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in SOURCES]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def room_of(path: Path) -> str:
    """Return the room of a file in its package; "" for what stands in the package itself."""
    return Path(*path.relative_to(ROOT).parts[1:2]).stem.removesuffix("__init__")


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the dotted names of all that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def file_of(name: str) -> Path | None:
    """Return the file of ours that a dotted name is in, or is."""
    parts = name.split(".")
    modules = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((MODULES[module] for module in modules if module in MODULES), None)


@cache
def files_used_by(path: Path) -> frozenset[Path]:
    """Return the files of ours that a file imports."""
    return frozenset(map(file_of, imports_of(path))) - {path, None}


def may_import(package: str, room: str) -> set[str]:
    """Return the rooms of its package that a room may import."""
    beneath = {*BENEATH.get(package, "").split()}
    rooms = ROOMS[package]
    if room in rooms:
        return beneath | {*rooms[room].split()}
    above = {*ABOVE.get(package, "").split()}
    return beneath | above | rooms.keys() if room in above else beneath


def assert_no_circle(arrows: Mapping[str, Iterable[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


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
    assert packages - {"tests"} == PACKAGES.keys() == ROOMS.keys()


def test_every_file_stands_in_a_wing_or_in_the_short_list_beside() -> None:
    for package, rooms in ROOMS.items():
        listed = [*rooms, *BENEATH.get(package, "").split(), *ABOVE.get(package, "").split()]
        found = {room_of(path) for path in SOURCES if package_of(path) == package} - {""}
        assert sorted(listed) == sorted(found)


@pytest.mark.parametrize("package", [package for package, rooms in ROOMS.items() if rooms])
def test_each_wing_says_where_to_begin_and_runs_no_code(package: str) -> None:
    wings = [ROOT / package, *(ROOT / package / room for room in ROOMS[package])]
    for path in (wing / "__init__.py" for wing in wings if wing.is_dir()):
        (only,) = SOURCES[path].body
        said = " ".join((ast.get_docstring(SOURCES[path]) or "").split()).lower()
        assert isinstance(only, ast.Expr), f"{path} has code"
        assert "begin with" in said, path


@pytest.mark.parametrize("path", FILES)
def test_imports_go_one_way(path: Path) -> None:
    package, room = package_of(path), room_of(path)
    for used in files_used_by(path):
        if package_of(used) != package:
            names = {package_of(used), f"{package_of(used)}.{room_of(used)}"}
            assert names & {*PACKAGES[package].split()}, used
        elif room_of(used) != room:
            assert room_of(used) in may_import(package, room), used


def test_no_arrow_is_allowed_that_none_needs() -> None:
    arrows = [(path, used) for path in SOURCES for used in files_used_by(path)]
    rooms = {(package_of(a), room_of(a), package_of(b), room_of(b)) for a, b in arrows}
    for package, others in PACKAGES.items():
        needed = {name for p, _, q, room in rooms if p == package for name in (q, f"{q}.{room}")}
        assert {*others.split()} <= needed
        for wing, below in ROOMS[package].items():
            needed = {room for p, w, q, room in rooms if (p, w, q) == (package, wing, package)}
            assert {*below.split()} <= needed, wing


def test_neither_rooms_nor_modules_import_in_a_circle() -> None:
    modules = {module_of(path): map(module_of, files_used_by(path)) for path in SOURCES}
    assert_no_circle(modules)
    rooms: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        room = f"{package_of(path)}.{room_of(path)}"
        rooms[room] |= {f"{package_of(used)}.{room_of(used)}" for used in files_used_by(path)}
        rooms[room].discard(room)
    assert_no_circle(rooms)


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module_of(path))
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_private_names_stay_in_their_module() -> None:
    private = re.compile(r"\._(?!_)")
    ours = {name for path in SOURCES for name in imports_of(path) if file_of(name)}
    assert [name for name in ours if private.search(name)] == []


@pytest.mark.parametrize("path", [p for p in FILES if package_of(p.values[0]) == "seckill"])
def test_the_kernel_knows_neither_aiohttp_nor_processes(path: Path) -> None:
    processes = r"subprocess|multiprocessing|asyncio\.(create_)?subprocess"
    # Two files call other services, one answers probes; nothing in here serves buyers.
    http = {
        "adapters/http.py": r"aiohttp\.web",
        "webhooks/sender.py": r"aiohttp\.web",
        "admin_port.py": r"aiohttp\.client",
    }.get(str(path.relative_to(ROOT / "seckill")), "aiohttp")
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
    waiting, outside = {ROOT / "loadtest/locust_crowd/locustfile.py"}, set()
    while waiting:
        seen.add(path := waiting.pop())
        waiting |= files_used_by(path) - seen
        outside |= {name.partition(".")[0] for name in imports_of(path) if file_of(name) is None}
    assert outside - sys.stdlib_module_names == {"gevent", "jwt", "locust"}


def test_the_client_needs_aiohttp_alone() -> None:
    paths = [path for path in SOURCES if package_of(path) == "seckill_client"]
    outside = {n.partition(".")[0] for p in paths for n in imports_of(p) if file_of(n) is None}
    assert outside - sys.stdlib_module_names == {"aiohttp", "yarl"}  # aiohttp needs yarl itself


def test_redis_keys_are_made_in_one_file() -> None:
    assert files_with(re.compile(r"\bsk:")) == {"seckill/adapters/redis_keys.py"}


def test_queues_are_named_in_one_file() -> None:
    # saga.completed and the like are topics of events, in seckill/events.py.
    queue = re.compile(
        r"^(orders|payments|saga|retry)\.(?!com|parked)[a-z0-9]|\.dead$|^seckill\.events$"
    )
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
