"""The image, compose, the units of systemd and the workflows, as their own checkers see them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from config.settings import PROJECT_ROOT, Settings

DEPLOY = PROJECT_ROOT / "deploy"
WORKFLOWS = PROJECT_ROOT / ".github/workflows"
UNITS = DEPLOY / "systemd"
#: Variables of compose that are no settings of ours: passwords of stores, and the image's tag.
OF_COMPOSE = {
    "REDIS_PASSWORD",
    "RABBITMQ_PASSWORD",
    "POSTGRES_PASSWORD",
    "GRAFANA_PASSWORD",
    "SECKILL_TAG",
}

Program = Callable[[str], str]


def call(*argv: str | Path, **environment: str) -> str:
    done = subprocess.run(
        argv,
        cwd=PROJECT_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compose(yaml: ModuleType) -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def test_hadolint_finds_nothing(program: Program) -> None:
    call(program("hadolint"), "deploy/Containerfile")


def test_the_image_copies_what_the_package_consists_of() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
    included = project["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = re.findall(r"(?m)^COPY (\w+) \1$", (DEPLOY / "Containerfile").read_text())
    assert {f"{name}*" for name in copied} == {*included} - {"loadtest*"}
    allowed = re.findall(r"(?m)^!(.+)$", (PROJECT_ROOT / ".dockerignore").read_text())
    assert {*copied, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == {*allowed}


def test_variables_of_the_image_are_settings(known_settings: set[str]) -> None:
    named = set(re.findall(r"\b(SECKILL_\w+)", (DEPLOY / "Containerfile").read_text()))
    assert named <= known_settings


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.compose-spec", [DEPLOY / "compose.yaml"]),
        ("vendor.github-workflows", sorted(WORKFLOWS.glob("*.yml"))),
        ("custom.github-workflows-require-timeout", sorted(WORKFLOWS.glob("*.yml"))),
    ],
)
def test_files_have_the_form_of_their_kind(
    program: Program, schema: str, files: list[Path]
) -> None:
    assert files
    call(program("check-jsonschema"), "--builtin-schema", schema, *files)


def test_variables_of_compose_are_settings(
    compose: dict[str, Any], known_settings: set[str]
) -> None:
    ours = {name: s for name, s in compose["services"].items() if "seckill-gateway" in s["image"]}
    assert set(ours) == {"migrate", "consumers", "gateway"}
    for service in ours.values():
        assert set(service["environment"]) <= known_settings
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_compose_waits_longer_than_a_process_takes_to_end(compose: dict[str, Any]) -> None:
    fields = Settings.model_fields
    longest = fields["drain_s"].default + fields["stop_delay_s"].default
    for name in ("consumers", "gateway"):
        assert float(compose["services"][name]["stop_grace_period"].removesuffix("s")) > longest


def test_compose_starts_each_part_after_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        after = service.get("depends_on", {})
        for name, how in after.items() if isinstance(after, dict) else ():
            if how["condition"] == "service_healthy":
                assert "test" in services[name]["healthcheck"], name
    needed = set(services["gateway"]["depends_on"])
    assert needed == {"migrate", "redis", "rabbitmq", "consumers"}


def test_the_script_makes_every_variable_that_compose_names(
    tmp_path: Path, known_settings: set[str]
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "deploy").mkdir()
    shutil.copy(PROJECT_ROOT / "scripts/compose", tmp_path / "scripts")
    shutil.copy(DEPLOY / "compose.env.example", tmp_path / "deploy")
    call("sh", tmp_path / "scripts/compose", "--secrets")
    file = tmp_path / "deploy/.env"
    made = dict(line.split("=", 1) for line in file.read_text().splitlines())
    named = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    # What the shop chooses, or has of Stripe.
    assert named - set(made) == {
        "SECKILL_TAG",
        "SECKILL_PROVIDER",
        "SECKILL_STRIPE_KEY",
        "SECKILL_STRIPE_WEBHOOK_SECRET",
    }
    assert named <= known_settings | OF_COMPOSE
    assert file.stat().st_mode & 0o077 == 0
    assert len(set(made.values())) == len(made)
    for name in set(made) & known_settings:
        Settings(home=tmp_path, **{name.removeprefix("SECKILL_").lower(): made[name]})
    # A second run changes nothing.
    call("sh", tmp_path / "scripts/compose", "--secrets")
    assert made == dict(line.split("=", 1) for line in file.read_text().splitlines())


def test_the_examples_have_no_secrets() -> None:
    for file in (DEPLOY / "compose.env.example", UNITS / "seckill.env.example"):
        values = dict(re.findall(r"(?m)^(\w+)=(.*)$", file.read_text()))
        assert {value for value in values.values() if value} <= {"127.0.0.1"}


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is missing: systemd does not run this machine")
    units = []
    for file in UNITS.glob("seckill*.*"):
        if file.suffix == ".example":
            continue
        instance = tmp_path / file.name.replace("@.", "@1.")
        instance.write_text(file.read_text().replace("/opt/seckill/bin/seckill", "/bin/true"))
        units.append(instance)
    assert len(units) == 4
    call(analyze, "verify", "--man=no", *units)


def test_variables_of_the_units_are_settings(known_settings: set[str]) -> None:
    fields = Settings.model_fields
    longest = fields["drain_s"].default + fields["stop_delay_s"].default
    text = "\n".join(file.read_text() for file in UNITS.glob("seckill*"))
    named = set(re.findall(r"(?m)\b(SECKILL_\w+)=", text))
    assert named
    assert named <= known_settings
    times = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", text)
    assert len(times) == 2, "of gateways, and of consumers"
    assert min(map(float, times)) > longest


def test_workflows_may_only_read_and_name_actions_by_their_major_version(
    yaml: ModuleType,
) -> None:
    for file in WORKFLOWS.glob("*.yml"):
        workflow = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        used = re.findall(r"uses: (\S+)", file.read_text())
        assert used
        assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w./-]+@v\d+", name)] == []
    tested = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())["jobs"]["test"]
    assert tested["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_scripts_that_the_workflows_run_exist() -> None:
    text = "\n".join(file.read_text() for file in WORKFLOWS.glob("*.yml"))
    named = {
        *re.findall(r"\bsh (scripts/[\w-]+)", text),
        *re.findall(r"(?m)run: (\.ci/\w+)$", text),
    }
    assert {"scripts/check", ".ci/run"} <= named
    assert {name for name in named if not (PROJECT_ROOT / name).exists()} == set()


def test_chart_package_and_image_have_one_version(yaml: ModuleType) -> None:
    chart = yaml.safe_load((DEPLOY / "helm/seckill-gateway/Chart.yaml").read_text())
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_release_notes_are_the_section_of_their_version() -> None:
    notes = call("sh", "scripts/release-notes", "Unreleased")
    assert "### Added" in notes
    assert "## [" not in notes.replace("### [", "")
    missing = ["sh", "scripts/release-notes", "0.0.0"]
    done = subprocess.run(missing, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has no section [0.0.0]" in done.stderr
