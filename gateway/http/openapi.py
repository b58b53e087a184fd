"""`GET /openapi.json`: the contract as OpenAPI 3.1, assembled from the declarations of the routes.

Schemas come from the msgspec types that are sent and read, problems and their headers from
`gateway/http/problems.py`: the contract cannot say anything else than the code does.
The name of a type and its docstring are published, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import web

from gateway.http.contract import (
    HEADERS_WHERE_KNOWN,
    Body,
    Operation,
    Parameter,
    ResponseSpec,
    Route,
    headers_of,
    operation,
)
from gateway.http.problems import CONTENT_TYPE, Problem, problem_body
from gateway.http.responses import COMMON

Json = dict[str, Any]
Schemas = Mapping[type, Json]

#: The document, built once at start.
DOCUMENT = web.AppKey("openapi_document", bytes)

JSON = "application/json"
#: What is said of the public port's contract.
ANYBODYS = (
    "A retry of any call is safe. Answers may gain members, and refusals codes. A path that is not "
    "here answers 404."
)
_REF = "#/components/schemas/{name}"
_TEXT: Json = {"type": "string"}

#: Every header that an answer may carry as part of the contract.
HEADERS: dict[str, Json] = {
    "Allow": {"description": "The methods that this path has.", "schema": _TEXT},
    "Cache-Control": {"description": "How long a copy is good.", "schema": _TEXT},
    "ETag": {"description": "Names this copy, for `If-None-Match`.", "schema": _TEXT},
    "RateLimit": {
        "description": "What is left of the limit that refused, and when there is more "
        "(draft-ietf-httpapi-ratelimit-headers).",
        "schema": _TEXT,
    },
    "RateLimit-Policy": {
        "description": "That limit: requests (q) in seconds (w).",
        "schema": _TEXT,
    },
    "Retry-After": {
        "description": "Seconds after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "How to log in.", "schema": _TEXT},
}

#: What `problem_body` builds; each answer narrows `status` and `code`.
PROBLEM: Json = {
    "title": "Problem",
    "description": "Why a request was refused (RFC 9457). Compare `code`; the texts may change.",
    "type": "object",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string", "description": "What kind of problem it is."},
        "status": {"type": "integer", "description": "The HTTP status again."},
        "code": {"type": "string", "description": "Stable; made for comparing."},
        "detail": {"type": "string", "description": "What was wrong this time."},
        "field": {"type": "string", "description": "The value at fault."},
        "remaining": {"type": "integer", "description": "Of `too_few_left`: the units left."},
        "refund": {
            "type": "boolean",
            "description": "Of a payment of the shop's own checkout: its money must go back now. "
            "Then the problem has the other members of an `ExternalPaymentView`, too.",
        },
    },
}


@operation(
    "Read this contract",
    ResponseSpec(200, "OpenAPI 3.1.", {"openapi": "3.1.0"}, headers=["Cache-Control"]),
    tag="openapi",
)
async def read_contract(request: web.Request) -> web.Response:
    """Answer with the document."""
    return web.Response(
        body=request.app[DOCUMENT],
        content_type=JSON,
        headers={**COMMON, "Cache-Control": "no-cache"},
    )


def build(
    routes: Sequence[Route], *, title: str = "Seckill gateway", description: str = ANYBODYS
) -> bytes:
    """Build the document of these routes."""
    schemas, components = _schemas(routes)
    paths: dict[str, Json] = {}
    identities: Json = {}
    for method, path, declared in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(declared, schemas)
        identities |= {identity.name: identity.scheme for identity in declared.identities}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": title,
                "version": version("seckill-gateway"),
                "description": description,
            },
            "paths": paths,
            "components": {
                "schemas": {**components, "Problem": PROBLEM},
                "securitySchemes": identities,
            },
        }
    )


def _schemas(routes: Sequence[Route]) -> tuple[Schemas, Json]:
    examples = [answer.example for *_, declared in routes for answer in declared.answers]
    examples += [declared.body.example for *_, declared in routes if declared.body]
    types = list(dict.fromkeys(map(type, examples)))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    return dict(zip(types, schemas, strict=True)), _portable(components)


def _portable(schema: Any) -> Any:  # noqa: ANN401 - whatever a schema holds
    """Write patterns in the dialect of JSON Schema, whose $ lets no newline through."""
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    portable = {name: _portable(value) for name, value in schema.items()}
    if isinstance(pattern := portable.get("pattern"), str):
        portable["pattern"] = pattern.replace(r"\Z", "$")
    return portable


def _operation(declared: Operation, schemas: Schemas) -> Json:
    responses = {str(answer.status): _answer(answer, schemas) for answer in declared.answers}
    by_status: dict[int, list[Problem]] = {}
    for problem in declared.problems():
        by_status.setdefault(problem.value.status, []).append(problem)
    for status, problems in sorted(by_status.items()):
        responses[str(status)] = _refusal(status, problems)
    result: Json = {
        "operationId": declared.name,
        "summary": declared.summary,
        "tags": [declared.tag],
        "responses": responses,
    }
    if declared.parameters:
        result["parameters"] = [_parameter(parameter) for parameter in declared.parameters]
    if declared.body:
        result["requestBody"] = _body(declared.body, schemas)
    if declared.identities:
        result["security"] = [
            {identity.name: list(identity.scopes)} for identity in declared.identities
        ]
    return result


def _parameter(parameter: Parameter) -> Json:
    schema = {"type": "string"}
    if parameter.pattern:
        schema["pattern"] = "^" + parameter.pattern.pattern
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "description": parameter.description,
        "schema": _portable(schema),
        "example": parameter.example,
    }


def _body(body: Body, schemas: Schemas) -> Json:
    media = {"schema": schemas[type(body.example)], "example": msgspec.to_builtins(body.example)}
    return {"required": body.required, "content": {JSON: media}}


def _answer(answer: ResponseSpec, schemas: Schemas) -> Json:
    result: Json = {"description": answer.description}
    if answer.example is not None:
        media = {"schema": schemas[type(answer.example)], "example": answer.example}
        result["content"] = {answer.content_type: media}
    if answer.headers:
        result["headers"] = {name: _header(name, always=True) for name in answer.headers}
    if answer.links:
        result["links"] = {
            target: {"operationId": target, "parameters": values}
            for target, values in answer.links.items()
        }
    return result


def _refusal(status: int, problems: Sequence[Problem]) -> Json:
    sent = [headers_of(problem) for problem in problems]
    maybe = {name for problem in problems for name in HEADERS_WHERE_KNOWN.get(problem, ())}
    narrowed = {
        "status": {"const": status},
        "code": {"enum": [problem.code for problem in problems]},
    }
    return {
        "description": "\n\n".join(f"`{p.code}`: {p.value.title}." for p in problems),
        "headers": {
            name: _header(name, always=all(name in names for names in sent))
            for name in sorted(maybe.union(*sent))
        },
        "content": {
            CONTENT_TYPE: {
                "schema": {
                    "allOf": [{"$ref": _REF.format(name="Problem")}],
                    "properties": narrowed,
                },
                "examples": {
                    problem.code: {"value": msgspec.Raw(problem_body(problem))}
                    for problem in problems
                },
            }
        },
    }


def _header(name: str, *, always: bool) -> Json:
    return {**HEADERS[name], "required": always}
