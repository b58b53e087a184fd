"""The bodies of changes to a sale, which operators and the shop's own programs send."""

from __future__ import annotations

from typing import Annotated

import asyncpg
import msgspec

from config.limits import RATE_MAX, Op
from seckill.sales import rate_limits
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.terms import UNITS_MAX, Units
from seckill.sales.token_buckets import TokenBuckets

Rate = Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX)]
#: Why something was changed, for the audit trail: a line of text, and not blank.
Reason = Annotated[
    str, msgspec.Meta(min_length=1, max_length=1000, pattern=r"^(?! *\Z)[^\x00-\x1f\x7f]+\Z")
]


class UnitsChange(msgspec.Struct, forbid_unknown_fields=True):
    """Units to be added (below 0: taken out) to the total that the caller has seen."""

    units: Annotated[int, msgspec.Meta(ge=-UNITS_MAX, le=UNITS_MAX)]
    from_total: Units
    reason: Reason


class NewLimit(msgspec.Struct, forbid_unknown_fields=True):
    """A limit to be set; the burst is twice the rate and one if not given."""

    rate: Rate
    burst: Rate | None = None


class NewLimits(msgspec.Struct, forbid_unknown_fields=True, rename={"try_": "try"}):
    """The limits to be set; null takes one away, and what is not named stays as it is."""

    try_: NewLimit | msgspec.UnsetType | None = msgspec.UNSET
    confirm: NewLimit | msgspec.UnsetType | None = msgspec.UNSET
    cancel: NewLimit | msgspec.UnsetType | None = msgspec.UNSET

    def named(self) -> dict[Op, SaleLimit | None]:
        """Return what was named, checked."""
        given: dict[Op, NewLimit | msgspec.UnsetType | None] = {
            "try": self.try_,
            "confirm": self.confirm,
            "cancel": self.cancel,
        }
        return {
            op: SaleLimit.of(new.rate, new.burst) if new else None
            for op, new in given.items()
            if not isinstance(new, msgspec.UnsetType)
        }


async def set_limits_of(
    db: asyncpg.Pool, buckets: TokenBuckets, sale_id: str, new: NewLimits, *, by: str
) -> None:
    """Set the limits that are named, which all gateways apply from their next request on."""
    for op, limit in new.named().items():
        await rate_limits.set_limit(db, buckets, sale_id, op, limit, by=by)
