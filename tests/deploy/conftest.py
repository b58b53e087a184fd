"""The chart rendered, and the programs that check what is deployed: they are in the extra `deploy`,
which scripts/test installs. Without it these tests skip, or fail on a machine that tests every
change.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from config.settings import PROJECT_ROOT, Settings

CHART = PROJECT_ROOT / "deploy/helm/seckill-gateway"
VALUE_SETS = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))

Objects = list[dict[str, Any]]
Render = Callable[[Mapping[str, Any]], Objects]


def _lacks(name: str) -> None:
    line = f"{name} is missing: pip install -c constraints.txt -e '.[deploy]'"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(line)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        _lacks(name)
        raise


@pytest.fixture(scope="session")
def helm() -> ModuleType:
    return _module("helm_python")


@pytest.fixture(scope="session")
def yaml() -> ModuleType:
    return _module("yaml")


@pytest.fixture(scope="session")
def kubernetes_validate() -> ModuleType:
    return _module("kubernetes_validate")


@pytest.fixture(scope="session")
def jsonschema() -> ModuleType:
    return _module("jsonschema")


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a program that pip put beside Python."""

    def find(name: str) -> str:
        if not (found := shutil.which(name, path=Path(sys.executable).parent)):
            _lacks(name)
        return str(found)

    return find


@pytest.fixture(scope="session")
def render(helm: ModuleType, yaml: ModuleType) -> Render:
    """Render the chart with values, and return its objects."""

    def rendered(values: Mapping[str, Any]) -> Objects:
        with helm.Chart.load(CHART) as chart:
            files = chart.render(dict(values), name="shop", namespace="sales")
        manifests = (text for name, text in files.items() if not name.endswith(".txt"))
        return [found for text in manifests for found in yaml.safe_load_all(text) if found]

    return rendered


@pytest.fixture(params=VALUE_SETS)
def values(request: pytest.FixtureRequest, yaml: ModuleType) -> dict[str, Any]:
    text: str = (CHART / "ci" / f"{request.param}.yaml").read_text()
    return dict(yaml.safe_load(text))


@pytest.fixture
def objects(render: Render, values: Mapping[str, Any]) -> Objects:
    rendered = render(values)
    assert {"Job", "Service"} <= {found["kind"] for found in rendered}
    return rendered


@pytest.fixture(scope="session")
def known_settings() -> set[str]:
    """Return the variables that the code reads."""
    return {f"SECKILL_{name.upper()}" for name in Settings.model_fields}
