"""How much a sale needs of each part, from what a grab was measured to cost it.

The model: a process that is under load takes `fixed` microseconds of CPU a second, whatever comes,
and `each` for every grab or order. Two rates of a measurement give both. A core has a million, of
which a share is planned with; the rest is for what is not even: arrivals, garbage, neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from math import ceil
from pathlib import Path

from seckill.errors import UserMistake

CORE_US = 1_000_000
#: Share of a core that is planned with.
PLANNED_SHARE = 0.6
#: Grabs a second that one slot of Redis takes while units are left. All keys of a sale are in one
#: slot, so in one thread of one Redis. The lower figure is that of small batches.
SLOT_BOUNDS = 140_000, 290_000
#: Redis's memory for a holder (ten million take a gigabyte), and before anything is there.
HOLDER_BYTES, REDIS_BYTES = 100, 64_000_000
#: Connections of a gateway process (SECKILL_CONNECTIONS_MAX).
CONNECTIONS_MAX = 20_000
PARTS = "gateway", "consumers", "redis", "rabbitmq", "postgresql"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in microseconds: of a process a second, and of each grab or order."""

    fixed: float
    each: float

    @classmethod
    def of(cls, low: tuple[float, float], high: tuple[float, float]) -> Cost:
        """Return the cost from two points (rate a second, microseconds each)."""
        (rate, us), (rate_2, us_2) = low, high
        fixed = max(0.0, (us - us_2) / (1 / rate - 1 / rate_2))
        return cls(fixed, max(0.0, us_2 - fixed / rate_2))

    def cores(self, rate: float) -> float:
        """Return the cores that one process takes at a rate."""
        return (self.fixed + self.each * rate) / CORE_US

    def processes(self, rate: float) -> int:
        """Return how many processes share a rate, each within its planned share of a core."""
        return max(1, ceil(rate * self.each / max(1.0, PLANNED_SHARE * CORE_US - self.fixed)))


@dataclass(frozen=True, slots=True)
class PartCosts:
    """What was measured: of a won order by part, and of a refusal at the gateway.

    Both over kept connections; a connection of its own takes the gateway `connection` microseconds.
    """

    origin: str
    won: Mapping[str, Cost]
    refused: Cost
    connection: float

    @classmethod
    def read(cls, path: Path | None) -> PartCosts:
        """Read a file of costs, or the one that comes with this version."""
        source = path or files("ops").joinpath("costs.json")
        try:
            plain = json.loads(source.read_text())
            won = {part: Cost(**plain["won"][part]) for part in PARTS}
            refused, connection = Cost(**plain["refused"]), float(plain["connection"])
            return cls(str(plain["origin"]), won, refused, connection)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserMistake(
                f"--costs {source}: {error!r}; it is a file that "
                "`python -m loadtest.bench.order_costs --out FILE` writes"
            ) from error

    def write(self, path: Path) -> None:
        """Write them to a file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Need:
    """What one part needs."""

    part: str
    processes: int
    #: Of all its processes together, in the busiest second.
    cores: float
    why: str


@dataclass(frozen=True, slots=True)
class Sizing:
    """A sale, and what it needs."""

    buyers: int
    stock: int
    seconds: float
    placed_within_s: float
    needs: list[Need]
    #: Bounds of the model, and what it leaves out.
    bounds: list[str]

    @property
    def grabs_per_s(self) -> float:
        """The grabs that come a second."""
        return self.buyers / self.seconds


def plan(
    costs: PartCosts,
    *,
    buyers: int,
    stock: int,
    seconds: float,
    placed_within_s: float,
    kept_connections: bool = False,
) -> Sizing:
    """Return what each part needs; proxies keep connections, and browsers open one each."""
    rate = buyers / seconds
    won_at_once = min(stock, rate)  # in the busiest second, the first one
    orders = min(stock, buyers)
    placed_per_s = orders / max(seconds, placed_within_s)
    won, refused = costs.won, costs.refused
    per_grab = (won_at_once * won["gateway"].each + (rate - won_at_once) * refused.each) / rate
    per_grab += 0.0 if kept_connections else costs.connection
    gateway = Cost(won["gateway"].fixed, per_grab)
    by_cpu = gateway.processes(rate)
    by_connections = 0 if kept_connections else ceil(buyers / CONNECTIONS_MAX)
    gateways = max(by_cpu, by_connections)
    redis, broker = won["redis"].cores(won_at_once), won["rabbitmq"].cores(won_at_once)
    consumers = won["consumers"].processes(placed_per_s)
    database = won["postgresql"].cores(placed_per_s)
    memory_mb = (REDIS_BYTES + orders * HOLDER_BYTES) / 1e6
    needs = [
        Need(
            "gateway",
            gateways,
            rate * per_grab / CORE_US,
            f"{by_cpu:,} by CPU ({per_grab:.0f} us a grab), {by_connections:,} by connections "
            f"({CONNECTIONS_MAX:,} a process)",
        ),
        Need(
            "consumers",
            consumers,
            consumers * won["consumers"].fixed / CORE_US
            + placed_per_s * won["consumers"].each / CORE_US,
            f"{orders:,} orders placed within {max(seconds, placed_within_s):g} s",
        ),
        Need("redis", 1, redis, f"{won_at_once:,.0f} won in the first second; {memory_mb:,.0f} MB"),
        Need("rabbitmq", 1, broker, "one node's; three take about three times as much together"),
        Need("postgresql", 1, database, f"{placed_per_s:,.0f} orders/s"),
    ]
    bounds = [_slot_bound(rate), *_single_bounds(redis)]
    return Sizing(buyers, stock, seconds, placed_within_s, needs, bounds)


def _slot_bound(rate: float) -> str:
    low, high = SLOT_BOUNDS
    bound = f"one sale is one slot of Redis, which takes {low:,} to {high:,} grabs/s"
    if rate <= low:
        return f"{bound}: {rate:,.0f}/s fit"
    if rate <= high:
        return f"{bound}: {rate:,.0f}/s fit only in large batches; measure it"
    return (
        f"{bound}: of {rate:,.0f}/s the others wait, or are refused with 503, until it is sold"
        " out; set a rate limit below that. Beyond it a sale needs several slots"
        " (docs/adr/, escrow over slots)"
    )


def _single_bounds(redis_cores: float) -> list[str]:
    if redis_cores <= PLANNED_SHARE:
        return []
    return [
        f"Redis would need {redis_cores:.1f} cores for a second's orders, and its scripts have one:"
        " they take that many seconds, while grabs wait"
    ]


def highest_rate(costs: PartCosts, cores: float, also_us: float = 0.0) -> float:
    """Return the orders a second at which all parts together take so many cores.

    `also_us` is what something else on the machine takes for each, a load generator for example.
    """
    fixed = sum(cost.fixed for cost in costs.won.values())
    each = sum(cost.each for cost in costs.won.values()) + also_us
    return (cores * CORE_US - fixed) / each
