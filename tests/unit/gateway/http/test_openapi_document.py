"""The contract: valid OpenAPI, every route in it, every problem, and nothing that is not true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

import msgspec
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from config.settings import PROJECT_ROOT, Settings
from gateway.app import ROUTES, create_app
from gateway.http import openapi
from gateway.http.contract import Route, headers_of
from gateway.http.problems import CONTENT_TYPE, Problem
from gateway.shop.app import ROUTES as SHOP_ROUTES
from gateway.shop.idempotency import IDEMPOTENCY_KEY
from tests.contract import Contract

CONTRACT = Contract()
OPERATIONS = {
    operation["operationId"]: operation
    for item in CONTRACT.document["paths"].values()
    for operation in item.values()
}
each_operation = pytest.mark.parametrize("name", OPERATIONS)
#: Operators have no contract of this kind.
OF_THE_ADMIN_PORT = {
    Problem.BAD_ADMIN_TOKEN,
    Problem.ADMIN_OFF,
    Problem.NOT_READY,
    Problem.READ_ONLY,
    Problem.NOT_SIGNED_IN,
    Problem.BAD_CSRF_TOKEN,
    Problem.NO_POOL,
}
DECLARED = {declared.name: declared for *_, declared in ROUTES}
OF_THE_SHOPS_PORT = {problem for *_, declared in SHOP_ROUTES for problem in declared.problems()}
ASSETS = PROJECT_ROOT / "gateway/static/docs"


@pytest.mark.parametrize("routes", [ROUTES, SHOP_ROUTES], ids=["public", "shop"])
def test_the_document_is_valid(routes: Sequence[Route]) -> None:
    document = Contract(routes).document
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []


def test_every_call_of_the_shops_programs_declares_one_scope() -> None:
    for _, path, declared in SHOP_ROUTES:
        scopes = [scope for each in declared.identities for scope in each.scopes]
        assert len(scopes) == path.startswith("/shop/v1"), path


def test_calls_that_move_money_or_units_need_a_key() -> None:
    with_key = {
        declared.name for *_, declared in SHOP_ROUTES if IDEMPOTENCY_KEY in declared.parameters
    }
    posts = {declared.name for method, _, declared in SHOP_ROUTES if method == "POST"}
    assert posts - with_key == {
        "pause_shop_sale",
        "resume_shop_sale",
        "pause_webhook",
        "resume_webhook",
    }


def test_every_route_of_the_application_is_in_it() -> None:
    app = create_app(Settings(ticket_keys="k1:" + "t" * 32, jwt_keys="k1:" + "j" * 32))
    routes = {
        (route.resource.canonical, route.method)
        for route in app.router.routes()
        if route.method not in ("*", "HEAD")  # the one refuses, the other answers as GET does
    }
    declared = {
        (path, method.upper())
        for path, item in CONTRACT.document["paths"].items()
        for method in item
    }
    assert routes == declared
    assert len(OPERATIONS) == len(ROUTES), "two handlers have one name"


@pytest.mark.parametrize("problem", Problem, ids=lambda problem: problem.code)
def test_every_problem_is_an_answer_of_some_operation(problem: Problem) -> None:
    named = any(problem in declared.problems() for declared in DECLARED.values())
    # What is no request in a version that is spoken reaches no operation.
    named = named or problem in OF_THE_SHOPS_PORT
    assert named != (problem in {*OF_THE_ADMIN_PORT, Problem.HTTP_VERSION})


@each_operation
def test_every_problem_is_named_under_its_status_with_its_headers(name: str) -> None:
    responses = OPERATIONS[name]["responses"]
    named = {
        (int(status), code)
        for status, answer in responses.items()
        if CONTENT_TYPE in answer.get("content", {})
        for code in answer["content"][CONTENT_TYPE]["schema"]["properties"]["code"]["enum"]
    }
    problems = DECLARED[name].problems()
    assert named == {(problem.value.status, problem.code) for problem in problems}
    for problem in problems:
        assert headers_of(problem) <= responses[str(problem.value.status)]["headers"].keys()


@each_operation
def test_examples_keep_to_their_schemas(name: str) -> None:
    operation = OPERATIONS[name]
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    for described in (*bodies, *operation["responses"].values()):
        for media in described.get("content", {}).values():
            examples = [example["value"] for example in media.get("examples", {}).values()]
            for example in (*examples, *([media["example"]] if "example" in media else [])):
                CONTRACT.check_value(media["schema"], example)
    for parameter in operation.get("parameters", ()):
        CONTRACT.check_value(parameter["schema"], parameter["example"])


@each_operation
def test_parameters_are_those_of_the_path(name: str) -> None:
    (path,) = (path for _, path, declared in ROUTES if declared.name == name)
    declared = [
        parameter["name"]
        for parameter in OPERATIONS[name].get("parameters", ())
        if parameter["in"] == "path"
    ]
    assert declared == re.findall(r"\{(\w+)\}", path)


def test_links_lead_to_parameters_that_exist() -> None:
    for declared in DECLARED.values():
        for answer in declared.answers:
            for target, values in answer.links.items():
                known = {parameter.name for parameter in DECLARED[target].parameters}
                assert values.keys() <= known


@pytest.mark.parametrize(
    ("table", "schema", "member", "others"),
    [("sales", "SaleView", "state", set()), ("orders", "OrderView", "status", {"queued"})],
)
def test_states_are_those_of_the_tables(
    table: str, schema: str, member: str, others: set[str]
) -> None:
    sql = (PROJECT_ROOT / "seckill/sql/0001_schema.sql").read_text()
    columns = sql.partition(f"CREATE TABLE {table} (")[2]
    checked = re.search(r"CHECK\s*\(state IN\s*\(([^)]*)\)", columns)
    assert checked
    states = set(re.findall(r"'(\w+)'", checked[1])) | others
    properties = CONTRACT.document["components"]["schemas"][schema]["properties"]
    assert set(properties[member]["enum"]) == states


def test_a_value_that_breaks_the_contract_is_found() -> None:
    schema = OPERATIONS["grab"]["responses"]["409"]["content"][CONTENT_TYPE]["schema"]
    wrong = {"type": "about:blank", "title": "x", "status": 409, "code": "closed"}
    with pytest.raises(ValueError, match="closed"):
        CONTRACT.check_value(schema, wrong)
    with pytest.raises(AssertionError, match="not declared"):
        CONTRACT.check("POST", "/v1/sales/s/grabs", 402, {}, b"")


def test_published_names_stay_when_files_and_types_move() -> None:
    """Generated clients have a module for each tag and a class for each schema."""
    tags = {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
    assert " ".join(sorted(tags)) == (
        "challenges docs events external-payments grabs openapi orders payments sales tickets "
        "webhooks"
    )
    assert " ".join(sorted(CONTRACT.document["components"]["schemas"])) == (
        "ChallengeView ExternalPaymentList ExternalPaymentReport ExternalPaymentView GrabRequest "
        "Grabbed GrabbedBefore HeldOrderView OrderEvent OrderView PaymentAction PaymentEvent "
        "PaymentRequest Problem ProofRequest SaleList SaleView StreamTokenView TicketView"
    )


def test_the_document_is_built_the_same_each_time() -> None:
    """Each process builds its own, and a buyer may reach any of them."""
    assert openapi.build(ROUTES) == msgspec.json.encode(CONTRACT.document)


def test_vendored_files_are_those_of_their_note() -> None:
    noted = dict(
        reversed(line.split())
        for line in (ASSETS / "README.md").read_text().splitlines()
        if re.match(r" {4}[0-9a-f]{64} ", line)
    )
    assert noted == {name: sha256((ASSETS / name).read_bytes()).hexdigest() for name in noted}
    ours = {"README.md", "index.html", "start.js"}
    assert noted.keys() | ours == {path.name for path in ASSETS.iterdir()}
