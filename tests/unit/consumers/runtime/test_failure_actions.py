"""The table from exceptions to what becomes of their message."""

from __future__ import annotations

import asyncpg
import pytest

from consumers.runtime.retries import FailureAction, failure_action
from seckill.errors import Transient, Unavailable
from seckill.messages import BadMessage, NewerMessage


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (Unavailable(), FailureAction.HOLD),
        (BadMessage(), FailureAction.DEAD),
        (NewerMessage(), FailureAction.RETRY),
        (Transient(), FailureAction.RETRY),
        (asyncpg.RaiseError("a trigger objects"), FailureAction.RETRY),
        (ZeroDivisionError(), FailureAction.RETRY),
    ],
    ids=lambda value: value.name if isinstance(value, FailureAction) else type(value).__name__,
)
def test_each_exception_has_one_action(error: Exception, action: FailureAction) -> None:
    assert failure_action(error) is action
