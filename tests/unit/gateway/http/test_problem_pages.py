"""The page that each problem's `type` leads to."""

from __future__ import annotations

import json

import pytest

from gateway.http.problem_pages import ADVICE, PAGES
from gateway.http.problems import Problem, problem_body

each_problem = pytest.mark.parametrize("problem", Problem, ids=lambda problem: problem.code)


@each_problem
def test_the_type_of_a_problem_leads_to_a_page_about_it(problem: Problem) -> None:
    page = PAGES[json.loads(problem_body(problem))["type"].removeprefix("/problems/")].decode()
    assert f"<code>{problem.code}</code>, status {problem.value.status}" in page
    assert "`" not in page


def test_there_is_advice_for_every_problem_and_no_other() -> None:
    assert ADVICE.keys() == set(Problem)
    assert PAGES.keys() == {problem.code for problem in Problem}
