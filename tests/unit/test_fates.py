"""The table from exceptions to what becomes of their message."""

from __future__ import annotations

import asyncpg
import pytest

from consumers.runtime.retries import Fate, fate_of
from seckill.errors import Transient, Unavailable
from seckill.messages import BadMessage, NewerMessage


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (Unavailable(), Fate.HOLD),
        (BadMessage(), Fate.DEAD),
        (NewerMessage(), Fate.RETRY),
        (Transient(), Fate.RETRY),
        (asyncpg.RaiseError("a trigger objects"), Fate.RETRY),
        (ZeroDivisionError(), Fate.RETRY),
    ],
    ids=lambda value: value.name if isinstance(value, Fate) else type(value).__name__,
)
def test_each_exception_has_one_fate(error: Exception, fate: Fate) -> None:
    assert fate_of(error) is fate
