"""What a gateway says in its log of how stores are set up."""

from __future__ import annotations

import pytest

from gateway.admin.health import log_new_problems


def test_a_problem_is_logged_once_and_what_a_call_has_logged_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    no_log = "Redis has appendonly no; set it to yes"
    evicts = "Redis has maxmemory-policy allkeys-lru; set it to noeviction"
    refused = "Redis refuses EVALSHA, which our user needs: NOPERM"
    log_new_problems([], [no_log])
    log_new_problems([no_log], [no_log, evicts, refused])
    assert caplog.messages == [no_log, evicts]
