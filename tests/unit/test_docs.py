"""What the documents name exists; scripts/docs-check runs their commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from consumers.registry import BUILDERS
from gateway.app import ROUTES
from gateway.http.problems import Problem
from gateway.shop.app import ROUTES as SHOP_ROUTES
from ops.cli.main import load, root
from scripts.docs_check import ROOT, blocks_of, pages

WRAP = 100
LINES_MAX = {"README.md": 120, "docs/architecture.md": 200}
BESIDE = ["CONTRIBUTING.md", "CHANGELOG.md", "lua/README.md", "deploy/proxy/README.md"]
PAGES = [*pages(), *(ROOT / name for name in BESIDE)]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
#: The changelog names what was, too.
EACH_PRESENT_PAGE = pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
#: Words of a dialect that the project has given up (docs/glossary.md has the words that stay).
RETIRED = re.compile(
    r"\b(desks?|tills?|order book|sale board|doors?|entrance|hand-?over|handed over|mailbags?"
    r"|parcels?|lanes?|crews?|bury|buried|rungs?|ladders?|paces?|admissions?|in hand|is away"
    r"|are away|tells?|told|nobody|anybody|he|his|him|himself)\b",
    re.IGNORECASE,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
FILE = re.compile(r"(?<![\w./<-])[\w][\w./-]*\.(?:py|lua|sql|toml|conf|js|md)\b")


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose_of(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines outside fenced blocks, with their numbers."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def code_of(page: Path) -> list[str]:
    """Return what a page shows as code in its prose; a piece may go over the end of a line."""
    return [
        " ".join(piece.split())
        for piece in CODE.findall("\n".join(line for _, line in prose_of(page)))
    ]


def commands_of(page: Path) -> list[str]:
    """Return every line that a reader may type, from the prose and from the blocks."""
    shown = [block.text for block in blocks_of(page) if block.language == "sh"]
    return [*code_of(page), *"\n".join(shown).replace("\\\n", " ").splitlines()]


@cache
def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as a forge makes them."""
    headings = [line.lstrip("# ") for _, line in prose_of(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@cache
def file_names() -> set[str]:
    packages = (
        "config",
        "consumers",
        "gateway",
        "loadtest",
        "lua",
        "ops",
        "seckill",
        "seckill_client",
        "tests",
    )
    return {path.name for package in packages for path in (ROOT / package).rglob("*.*")}


@EACH_PAGE
def test_prose_is_wrapped(page: Path) -> None:
    long = [n for n, line in prose_of(page) if len(line) > WRAP and not line.startswith("|")]
    assert long == []


@pytest.mark.parametrize("name", LINES_MAX)
def test_a_page_is_no_longer_than_a_reader_has_time_for(name: str) -> None:
    assert len(text_of(name).splitlines()) <= LINES_MAX[name]


@EACH_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall("\n".join(line for _, line in prose_of(page))):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


@EACH_PRESENT_PAGE
def test_files_that_are_named_exist(page: Path) -> None:
    named = {name for code in code_of(page) for name in FILE.findall(code)}
    missing = {
        name
        for name in named
        if not ((ROOT / name).exists() or (page.parent / name).exists())
        and ("/" in name or name not in file_names())
    }
    assert missing == set()


@EACH_PAGE
def test_no_retired_word_comes_back(page: Path) -> None:
    found = [
        (number, word[0])
        for number, line in prose_of(page)
        for word in RETIRED.finditer(LINK.sub("", CODE.sub("", line)))
    ]
    assert found == []


@EACH_PAGE
def test_blocks_say_what_they_are_and_why_they_are_skipped(page: Path) -> None:
    languages = {block.language for block in blocks_of(page)}
    # The one block in Python is run by a test of its own (test_http_branch.py).
    assert languages <= {"sh", "js", "json", "mermaid", "python", ""}
    tags = re.findall(r"^ *<!-- docs-check:.*$", page.read_text(), re.MULTILINE)
    assert len(tags) == sum(bool(block.skipped) for block in blocks_of(page))


@EACH_PAGE
def test_commands_of_seckill_exist_with_their_options(page: Path) -> None:
    wrong = []
    for line in commands_of(page):
        for words in re.findall(r"(?:^|[\s(])seckill ([a-z][^|;&#)]*)", line):
            wrong += [f"{words}: {flaw}" for flaw in flaws_of(words.split())]
    assert wrong == []


def flaws_of(words: list[str]) -> Iterator[str]:
    """Yield what of a command is not there."""
    command: Any = root
    while (commands := getattr(command, "commands", {})) and words and words[0][0].isalpha():
        name = words.pop(0)
        if name not in commands:
            yield f"no command {name}"
            return
        command = load(name) if command is root else commands[name]
    options = {name for param in command.params for name in param.opts} | {"--help"}
    for word in words:
        if (option := re.match(r"--[a-z][a-z-]*", word)) and option[0] not in options:
            yield f"no option {option[0]}"


@EACH_PRESENT_PAGE
def test_modules_scripts_and_targets_that_are_run_exist(page: Path) -> None:
    lines = "\n".join(commands_of(page))
    modules = {
        name.replace(".", "/")
        for name in re.findall(r"-m ((?:loadtest|ops)[\w.]*)", lines)
        if not name.endswith(".")  # what follows is in a table
    }
    scripts = set(re.findall(r"\bsh (scripts/[\w-]+)", lines))
    targets = set(re.findall(r"(?m)(?:^|&& )make ([a-z-]+)", lines))
    missing = {
        name
        for name in modules
        if not (ROOT / f"{name}.py").exists() and not (ROOT / name / "__main__.py").exists()
    }
    assert missing | {name for name in scripts if not (ROOT / name).exists()} == set()
    assert targets - set(re.findall(r"(?m)^([a-z-]+):", text_of("Makefile"))) == set()


@EACH_PAGE
def test_settings_and_metrics_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    settings = {f"SECKILL_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"SECKILL_[A-Z][A-Z_]*[A-Z]", text)) - settings == set()
    metrics = text_of("seckill/metrics.py")
    named = {name.removesuffix("_total") for name in re.findall(r"`(seckill_[a-z_]+)", text)}
    packages = {path.name for path in ROOT.glob("seckill_*")}
    assert {name for name in named - packages if f'"{name}"' not in metrics} == set()


def test_operating_has_every_setting() -> None:
    text = text_of("docs/operating.md")
    names = {f"`SECKILL_{name.upper()}`" for name in Settings.model_fields}
    # Other programs give these two their names.
    others = {"`SECKILL_NOTIFY_SOCKET`", "`SECKILL_OTLP_ENDPOINT`"}
    assert {name for name in names if name not in text} == others
    assert "`NOTIFY_SOCKET`" in text
    assert "`OTEL_EXPORTER_OTLP_ENDPOINT`" in text


def test_the_numbers_of_settings_are_their_defaults() -> None:
    wrong = []
    for line in text_of("docs/operating.md").splitlines():
        names = re.findall(r"`SECKILL_([A-Z_]+)`", line.split("|")[1]) if "|" in line else []
        values = line.split("|")[2].split(",") if names else []
        for name, shown in zip(names, values, strict=len(values) > 1):
            default = Settings.model_fields[name.lower()].default
            if isinstance(default, int | float) and shown.strip(" `") != f"{default:g}".lower():
                wrong.append((name, shown, default))
    assert [w for w in wrong if not isinstance(w[2], bool)] == []


def test_the_api_page_has_every_route_and_every_problem() -> None:
    text = text_of("docs/http-api.md")
    routes = {f"`{method} {path}" for method, path, _ in ROUTES}
    assert {route for route in routes if route not in text} == set()
    assert {problem.code for problem in Problem if f"`{problem.code}`" not in text} == set()


def test_the_page_of_the_shops_programs_has_every_route() -> None:
    text = text_of("docs/shop-api.md")
    routes = {
        f"`{method} {path.removeprefix('/shop/v1')}"
        for method, path, _ in SHOP_ROUTES
        if path.startswith("/shop/v1")
    }
    assert {route for route in routes if route not in text} == set()


def test_the_pool_page_has_every_role() -> None:
    roles = re.findall(r"^\| `(\w+)` \|", text_of("docs/pool.md"), re.MULTILINE)
    assert set(BUILDERS) <= set(roles)


def test_hazards_name_tests_that_exist() -> None:
    text = text_of("docs/hazards.md")
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_F\w+)`", text))
    assert {name for name in named if f"def {name}(" not in tests} == set()
    assert re.findall(r"\*\*F(\d+)\*\*", text) == [str(number) for number in range(1, 38)]


def test_the_walk_of_a_won_grab_is_short() -> None:
    text = text_of("docs/architecture.md")
    walk = text.partition("## The walk of a won grab")[2].partition("\n## ")[0]
    rows = "\n".join(line.split("|")[1] for line in walk.splitlines() if line.startswith("|"))
    entered = [name.split("/")[0] for name in FILE.findall(rows)]
    most = {"gateway": 12, "seckill": 6, "consumers": 6}
    assert {name: entered.count(name) for name in most if entered.count(name) > most[name]} == {}
