"""A look at a large sale works a share of the time, and rests in between."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from seckill.consistency import diff

PAGE_S = 0.5


@pytest.mark.parametrize(("share", "rests"), [(1.0, []), (0.2, [2.0, 2.0, 2.0])])
async def test_it_rests_after_each_page_for_as_long_as_its_share_says(monkeypatch, share, rests):
    now, rested = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        rested.append(seconds)

    async def pages():
        nonlocal now
        for page in range(3):
            now += PAGE_S
            yield page

    monkeypatch.setattr(diff, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(diff, "asyncio", SimpleNamespace(sleep=sleep))
    assert [page async for page in diff.paced(pages(), share)] == [0, 1, 2]
    assert rested == pytest.approx(rests)
