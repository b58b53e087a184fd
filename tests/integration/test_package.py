"""The package that `pip install .` makes works without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from config.settings import PROJECT_ROOT

PACKAGES = ("config", "consumers", "gateway", "loadtest", "lua", "ops", "seckill", "seckill_client")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")
#: Makes the client a package of its own; no code reads it.
CLIENT_ALONE = "seckill_client/pyproject.toml"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def data_files(root: Path) -> set[str]:
    files = (path for name in PACKAGES for path in (root / name).rglob("*") if path.is_file())
    return {
        str(path.relative_to(root))
        for path in files
        if path.suffix not in (".py", ".pyc", ".md") and "results" not in path.parts
    } - {CLIENT_ALONE}


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
    wheel = wheel_of(source, wheels)
    shutil.rmtree(source)
    no = ["--no-deps", "--no-index"]
    subprocess.run([*PIP, "install", *no, "--target", str(target), str(wheel)], check=True)
    return target


def wheel_of(source: Path, wheels: Path) -> Path:
    no = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*PIP, "wheel", *no, "-w", str(wheels), str(source)], check=True)
    return next(wheels.glob("*.whl"))


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


def test_the_client_is_a_package_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "seckill_client"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT_ROOT / "seckill_client", source, ignore=ignored)
    wheel = wheel_of(source, tmp_path / "wheels")
    shutil.rmtree(source)
    names = zipfile.ZipFile(wheel).namelist()
    assert "seckill_client/py.typed" in names
    assert {name.partition("/")[0] for name in names if name.endswith(".py")} == {"seckill_client"}
    code = (
        "import sys, seckill_client.client\n"
        "ours = {'config', 'consumers', 'gateway', 'ops', 'seckill'}\n"
        "assert not ours & {name.partition('.')[0] for name in sys.modules}\n"
        "print(seckill_client.__file__)"
    )
    shown = run(wheel, "-c", code)  # a wheel is a zip file, which Python imports from
    assert shown.stdout.strip().startswith(str(wheel)), shown.stderr


def test_both_packages_have_one_version() -> None:
    gateway, client = (
        tomllib.loads((PROJECT_ROOT / name).read_text())["project"]
        for name in ("pyproject.toml", CLIENT_ALONE)
    )
    assert client["version"] == gateway["version"]
    assert {*client["dependencies"]} <= {*gateway["dependencies"]}
    assert client["requires-python"] == gateway["requires-python"]
