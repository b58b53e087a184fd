"""The package that `pip install .` makes works without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import PROJECT_ROOT

PACKAGES = ("config", "consumers", "gateway", "loadtest", "lua", "ops", "seckill")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")


def data_files(root: Path) -> set[str]:
    files = (path for name in PACKAGES for path in (root / name).rglob("*") if path.is_file())
    return {
        str(path.relative_to(root))
        for path in files
        if path.suffix not in (".py", ".pyc", ".md") and "results" not in path.parts
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy, which leaves no `build` in the checkout, and install it."""
    tmp = tmp_path_factory.mktemp("package")
    source, wheels, target = tmp / "source", tmp / "wheels", tmp / "installed"
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(PROJECT_ROOT / name, source / name, ignore=ignored)
    for name in BESIDE:
        shutil.copy(PROJECT_ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    no = ["--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "wheel", *no, "--no-build-isolation", "-w", str(wheels), str(source)], check=True
    )
    shutil.rmtree(source)
    wheel = next(wheels.glob("*.whl"))
    subprocess.run([*pip, "install", *no, "--target", str(target), str(wheel)], check=True)
    return target


def run(installed: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the installed package, in a folder that is not the checkout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SECKILL_")}
    env |= {"PYTHONPATH": str(installed), "HOME": str(installed / "nobody")}
    return subprocess.run(
        [sys.executable, "-W", "error", *argv],
        cwd=installed.parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_has_every_file_that_the_code_reads(installed: Path) -> None:
    assert data_files(PROJECT_ROOT) - data_files(installed) == set()


def test_the_command_works_in_another_folder(installed: Path) -> None:
    version = run(installed, "-m", "ops.cli", "--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "seckill-gateway")
    shown = run(installed, "-m", "ops.cli", "gateway", "--help")
    assert "--workers" in shown.stdout


def test_a_missing_setting_is_one_line(installed: Path) -> None:
    check = run(installed, "-m", "ops.cli", "migrate", "--check")
    assert check.returncode == 1
    assert check.stderr.startswith("seckill: SECKILL_POSTGRES_DSN not set")
    assert len(check.stderr.splitlines()) == 1


def test_its_home_is_the_users_and_not_among_the_packages(installed: Path) -> None:
    code = (
        "from config.settings import load_settings\n"
        "from ops.stack.servers.server import configuration\n"
        "assert 'appendfsync' in configuration('redis.conf')\n"
        "print(load_settings().home)"
    )
    shown = run(installed, "-c", code)
    assert shown.stdout.strip() == str(installed / "nobody" / ".seckill"), shown.stderr
