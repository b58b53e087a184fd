"""The Helm chart, rendered with each of its sets of values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from config.settings import PROJECT_ROOT, STORES, Settings
from consumers.main import default_roles
from consumers.registry import BUILDERS

CHART = PROJECT_ROOT / "deploy/helm/seckill-gateway"
CRDS = Path(__file__).parent / "crds"
#: The newest of `kubernetes-validate`, and the oldest that the chart takes.
KUBERNETES = ("1.37", "1.30")
SECRETS = {
    "SECKILL_TICKET_KEYS",
    "SECKILL_JWT_KEYS",
    "SECKILL_ADMIN_TOKEN",
    "SECKILL_WEBHOOK_KEYS",
    "SECKILL_SHOP_KEYS",
    "SECKILL_STRIPE_WEBHOOK_SECRET",
}
PROVIDER = {"SECKILL_STRIPE_KEY"}
STORE_VARIABLES = {f"SECKILL_{name.upper()}" for name in STORES}

Objects = list[dict[str, Any]]
Render = Callable[[Mapping[str, Any]], Objects]


def of_kind(objects: Objects, *kinds: str) -> Objects:
    return [found for found in objects if found["kind"] in kinds]


def workloads(objects: Objects) -> Objects:
    return of_kind(objects, "Deployment", "Rollout", "Job")


def pod_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    return dict(workload["spec"]["template"]["spec"])


def container_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(workload)["containers"]
    return dict(container)


def component_of(workload: Mapping[str, Any]) -> str:
    return str(workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"])


def plain_values(container: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def roles_of(workload: Mapping[str, Any]) -> set[str]:
    return set(container_of(workload)["args"][1:])


def test_lint_finds_nothing(helm: ModuleType) -> None:
    found = helm.lint(CHART, strict=True, kube_version="v1.34.0")
    worse_than_advice = [message for message in found["messages"] if message["severity"] > 1]
    assert (found["errors"], worse_than_advice) == ([], [])


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(
    objects: Objects, kubernetes_validate: ModuleType, version: str
) -> None:
    for found in objects:
        api = found["apiVersion"]
        if found["kind"] == "Rollout":  # its pods are those of a Deployment
            kept = {name: found["spec"][name] for name in ("selector", "template")}
            found = {**found, "apiVersion": "apps/v1", "kind": "Deployment", "spec": kept}
        elif (CRDS / f"{found['kind']}.json").exists():
            assert "." in api.split("/")[0]
            continue
        kubernetes_validate.validate(found, version, strict=True)


def test_the_operators_take_their_objects(objects: Objects, jsonschema: ModuleType) -> None:
    for found in objects:
        if (file := CRDS / f"{found['kind']}.json").exists():
            jsonschema.Draft7Validator(json.loads(file.read_text())).validate(found)


def test_the_schemas_of_operators_refuse_what_they_do_not_know(
    render: Render, jsonschema: ModuleType
) -> None:
    canary = {"gateway": {"canary": {"enabled": True}}}
    (rollout,) = of_kind(render(canary), "Rollout")
    rollout["spec"]["strategy"]["canary"]["steps"].append({"setWait": 5})
    schema = json.loads((CRDS / "Rollout.json").read_text())
    assert not jsonschema.Draft7Validator(schema).is_valid(rollout)


def test_variables_are_settings_that_the_code_knows(
    objects: Objects, known_settings: set[str], tmp_path: Path
) -> None:
    for workload in workloads(objects):
        container = container_of(workload)
        assert {entry["name"] for entry in container["env"]} <= known_settings
        values = {
            name.removeprefix("SECKILL_").lower(): value
            for name, value in plain_values(container).items()
        }
        Settings(home=tmp_path, **values)  # raises if a value cannot be used


def test_each_part_gets_the_secrets_that_it_needs_and_no_others(objects: Objects) -> None:
    of_both = STORE_VARIABLES | PROVIDER
    wanted = {"gateway": of_both | SECRETS, "migrate": {"SECKILL_POSTGRES_DSN"}}
    for workload in workloads(objects):
        secrets = {e["name"] for e in container_of(workload)["env"] if "valueFrom" in e}
        assert secrets == wanted.get(component_of(workload), of_both)
    assert of_kind(objects, "Secret") == []


def test_a_pod_has_more_time_to_end_than_its_processes_take(objects: Objects) -> None:
    for workload in of_kind(objects, "Deployment", "Rollout"):
        container = container_of(workload)
        given = plain_values(container)
        settings = Settings.model_fields
        stop = sum(
            float(given.get(f"SECKILL_{name.upper()}", settings[name].default))
            for name in ("drain_s", "stop_delay_s")
        )
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
        least = before.get("seconds", 0) + math.ceil(stop) + 10
        assert pod_of(workload)["terminationGracePeriodSeconds"] >= least


def test_pods_are_restricted(objects: Objects) -> None:
    """As the Pod Security level `restricted` wants it, and with a read-only root."""
    for workload in workloads(objects):
        pod, container = pod_of(workload), container_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        volumes = {kind for volume in pod.get("volumes", ()) for kind in volume} - {"name"}
        assert volumes <= {"emptyDir", "secret"}
        assert {"requests", "limits"} <= set(container["resources"])


def test_every_role_runs_somewhere_and_every_group_is_probed(objects: Objects) -> None:
    consumers = [w for w in workloads(objects) if component_of(w).startswith("consumers")]
    for workload in consumers:
        container = container_of(workload)
        assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    given = plain_values(container_of(consumers[0]))
    fields = {name.removeprefix("SECKILL_").lower(): value for name, value in given.items()}
    needed = set(default_roles(Settings(**fields)))
    if all(roles_of(workload) for workload in consumers):
        assert set().union(*map(roles_of, consumers)) == needed


def test_selectors_find_their_pods_and_no_others(objects: Objects) -> None:
    pods = [w["spec"]["template"]["metadata"]["labels"] for w in workloads(objects)]
    for found in of_kind(objects, "Service", "PodDisruptionBudget"):
        selector = found["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        assert sum(selector.items() <= labels.items() for labels in pods) == 1, found["metadata"]


def test_scalers_scale_what_is_there_without_a_fixed_count(objects: Objects) -> None:
    targets = {(w["kind"], w["metadata"]["name"]): w for w in workloads(objects)}
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        reference = scaler["spec"]["scaleTargetRef"]
        target = targets[reference.get("kind", "Deployment"), reference["name"]]
        assert "replicas" not in target["spec"]


def test_consumers_are_new_before_gateways(objects: Objects) -> None:
    waves = {
        component_of(w).split("-")[0]: w["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]
        for w in of_kind(objects, "Deployment", "Rollout")
    }
    assert int(waves["consumers"]) < int(waves["gateway"])
    for rollout in of_kind(objects, "Rollout"):
        first, wait, *_ = rollout["spec"]["strategy"]["canary"]["steps"]
        assert (first, list(wait)) == ({"setWeight": 0}, ["pause"])


def test_the_canary_is_measured_by_metrics_that_exist(objects: Objects) -> None:
    declared = (PROJECT_ROOT / "seckill/metrics.py").read_text()
    for template in of_kind(objects, "AnalysisTemplate"):
        measures = template["spec"]["metrics"]
        assert [m["name"] for m in measures] == ["unavailable", "p99", "placed", "ledger"]
        for name in names_of_metrics(measures):
            assert f'"{name}"' in declared, name


def names_of_metrics(measures: Objects) -> Iterator[str]:
    for measure in measures:
        query = measure["provider"]["prometheus"]["query"]
        assert query.count("(") == query.count(")")
        for name in re.findall(r"seckill_\w+", query):
            yield re.sub(r"_(bucket|total)$", "", name)


def test_the_schema_knows_every_role() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    roles = schema["definitions"]["group"]["properties"]["roles"]["items"]["enum"]
    assert set(roles) == set(BUILDERS)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"settings": {"SECKILL_ADMIN_TOKEN": "x"}}, "SECKILL_ADMIN_TOKEN"),
        ({"settings": {"SECKILL_DRAIN_S": 20}}, "SECKILL_DRAIN_S"),
        ({"settings": {"PATH": "/"}}, "PATH"),
        ({"gateway": {"replica": 3}}, "replica"),
        ({"consumers": {"groups": {"all": {"roles": ["place_order"]}}}}, "groups"),
        ({"secrets": {"existingSecret": ""}}, "existingSecret"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(
    render: Render, helm: ModuleType, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(helm.HelmError, match=named):
        render(values)
