"""What each public route promises, declared beside its handler for `gateway/http/openapi.py`.

A handler becomes a public route only as an `Operation` (see ROUTES in `gateway/app.py`), so none
can be added without saying what it takes and what it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from re import Pattern
from typing import Literal

import msgspec

from gateway.http.problems import Handler, Problem, problem_headers
from gateway.http.responses import COMMON

#: Headers that are set where the problem is answered, beside those of `problem_headers`.
_OWN_HEADERS: dict[Problem, tuple[str, ...]] = {
    Problem.METHOD_NOT_ALLOWED: ("Allow",),
    Problem.RATE_LIMITED: ("RateLimit", "RateLimit-Policy"),
    Problem.TOO_EARLY: ("Retry-After",),
}
#: What every route may answer: bytes that are not HTTP, another method, our mistake, too much in
#: flight.
_EVERYWHERE = (
    Problem.MALFORMED,
    Problem.METHOD_NOT_ALLOWED,
    Problem.INTERNAL,
    Problem.OVERLOADED,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value of the path, a header or the query, and how it is refused.

    Without a pattern it is any text. A value of the path is always required.
    """

    name: str
    description: str
    pattern: Pattern[str] | None
    example: str
    problems: Sequence[Problem] = ()
    place: Literal["path", "header", "query"] = "path"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """A way to show who sends a request (an OpenAPI security scheme), and how it is refused."""

    name: str
    scheme: Mapping[str, str]
    problems: Sequence[Problem]
    #: What the caller must have been given the right to.
    scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON body of the example's type, and how it is refused."""

    example: msgspec.Struct
    problems: Sequence[Problem]
    required: bool = True


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A good answer; its schema is that of the example's type, and None means no body.

    `headers` are names in `openapi.HEADERS`, always sent. `links` leads on to other operations:
    the values of their parameters by OpenAPI runtime expressions.
    """

    status: int
    description: str
    example: object
    content_type: str = "application/json"
    headers: Sequence[str] = ()
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """A handler with its declaration. The caller shows any one of the identities."""

    handler: Handler
    summary: str
    tag: str
    answers: Sequence[ResponseSpec]
    parameters: Sequence[Parameter]
    identities: Sequence[Identity]
    body: Body | None
    own_problems: Sequence[Problem]

    @property
    def name(self) -> str:
        """The operationId."""
        return self.handler.__name__

    def problems(self) -> Sequence[Problem]:
        """Return all that it may answer instead, each once."""
        parts: list[Parameter | Identity | Body] = [*self.parameters, *self.identities]
        if self.body:
            parts.append(self.body)
        inherited = [problem for part in parts for problem in part.problems]
        return list(dict.fromkeys([*inherited, *self.own_problems, *_EVERYWHERE]))


#: Method, path, operation.
Route = tuple[str, str, Operation]


def operation(
    summary: str,
    *answers: ResponseSpec,
    tag: str,
    parameters: Sequence[Parameter] = (),
    identities: Sequence[Identity] = (),
    body: Body | None = None,
    problems: Sequence[Problem] = (),
) -> Callable[[Handler], Operation]:
    """Declare a handler, under a tag that groups it with others in the document.

    `problems` are those that its parts do not bring with them already.
    """

    def declare(handler: Handler) -> Operation:
        return Operation(handler, summary, tag, answers, parameters, identities, body, problems)

    return declare


#: Headers that a problem has where their value is known: a sale may have no time of opening.
HEADERS_WHERE_KNOWN: dict[Problem, tuple[str, ...]] = {Problem.NOT_OPEN: ("Retry-After",)}


def headers_of(problem: Problem) -> set[str]:
    """Return the names of the headers that a problem is answered with, beside those of all."""
    return {*problem_headers(problem), *_OWN_HEADERS.get(problem, ())} - COMMON.keys()
