"""What the console reads: invariants are not counted while many buyers press."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.admin.console import sections
from gateway.admin.console.sections import RUSH_PER_S, Sections


class Lights:
    """Lights that were never counted."""

    def shown(self) -> dict[str, object]:
        return {"lights": [], "trouble": ""}


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch) -> None:
    monkeypatch.setattr(sections, "OFTEN_S", 0.0)


async def test_a_count_waits_for_the_end_of_a_rush_and_says_so() -> None:
    rates = iter([RUSH_PER_S + 1, RUSH_PER_S + 1, RUSH_PER_S])
    read = Sections(SimpleNamespace(), Lights(), lambda: next(rates))
    await read._until_calm()
    assert "not counted while more than 200 grabs a second" in read.parts["invariants"]["trouble"]
    assert next(rates, None) is None


async def test_a_rush_that_does_not_end_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(sections, "RUSH_MAX_S", 0.0)
    rates = iter([RUSH_PER_S * 10])
    read = Sections(SimpleNamespace(), Lights(), lambda: next(rates))
    await read._until_calm()
    assert read.parts == {}
