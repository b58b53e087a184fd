"""The published contract, for holding real answers against it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from gateway.app import ROUTES
from gateway.http import openapi
from gateway.http.contract import Route


class Contract:
    """What `GET /openapi.json` says."""

    def __init__(self, routes: Sequence[Route] = ROUTES) -> None:
        self.document: dict[str, Any] = json.loads(openapi.build(routes))

    def template_of(self, path: str) -> str | None:
        """Return the path of the contract that this path is one of."""
        for template in self.document["paths"]:
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                return template
        return None

    def good_answers(self) -> set[tuple[str, str, int]]:
        """Return method, path and status of every good answer."""
        return {
            (method.upper(), path, int(status))
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
            for status in operation["responses"]
            if int(status) < 400
        }

    def check(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Fail unless the answer is one that is declared."""
        template = self.template_of(path)
        if template is None:
            assert status == 404, f"{method} {path}: {status} at a path that is not declared"
            return
        item = self.document["paths"][template]
        # Another method's 405 is declared by those that are there.
        operation = item.get(method.lower()) or next(iter(item.values()))
        what = f"{method} {template}: {status}"
        assert str(status) in operation["responses"], f"{what} is not declared"
        answer = operation["responses"][str(status)]
        for name, header in answer.get("headers", {}).items():
            assert name in headers or not header["required"], f"{what} without {name}"
        content_type = headers.get("Content-Type", "").partition(";")[0]
        if content_type.endswith("json"):
            assert content_type in answer["content"], f"{what}: {content_type}"
            self.check_value(answer["content"][content_type]["schema"], json.loads(body))

    def check_value(self, schema: Mapping[str, Any], value: object) -> None:
        """Fail unless the value keeps to a schema of the document."""
        whole = {**schema, "components": self.document["components"]}
        jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(value)
