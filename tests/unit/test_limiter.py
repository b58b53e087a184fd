"""The limiter of one process: what it asks of the shared bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.limits import Tier
from gateway.limiter import SaleLimiter
from seckill.buckets import LINE_MAX, Admissions


class Bucket:
    """Admits everybody and notes how long a line it was allowed."""

    line_max = 0

    async def admit(self, *args: Any, line_max: int, **_: Any) -> Admissions:
        names: Sequence[str] = args[-1]
        self.line_max = line_max
        return Admissions(0, 1, 1, [0.0] * len(names))


async def test_no_line_is_longer_than_redis_can_spare_however_much_is_for_sale() -> None:
    bucket: Any = Bucket()
    await SaleLimiter("s", "try", Tier(rate=1), bucket, lambda: 2**31).wait_of("a")
    assert bucket.line_max == LINE_MAX
    await SaleLimiter("s", "try", Tier(rate=1), bucket, lambda: 3).wait_of("a")
    assert bucket.line_max == 3
