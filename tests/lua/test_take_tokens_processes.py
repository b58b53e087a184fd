"""take_tokens.lua: four processes keep the bound together, and every promise."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.limits import Tier
from tests.lua.bucket import LEASE_S, Bucket
from tests.lua.shop import Shop


@dataclass(order=True)
class Visit:
    at_s: float
    names: list[str] = field(compare=False)
    process: int = field(compare=False)
    promised: bool = field(compare=False, default=False)


crowds = st.lists(
    st.tuples(
        st.floats(0, 6),  # when
        st.integers(1, 60),  # how many at once
        st.integers(0, 3),  # at which process
    ),
    min_size=1,
    max_size=25,
)


@given(
    crowds=crowds,
    rate=st.sampled_from([2, 10, 37, 200]),
    manners=st.lists(st.tuples(st.booleans(), st.floats(0, 0.3)), min_size=1, max_size=20),
    wanted=st.integers(0, 30),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_note_08_four_processes_keep_the_bound_and_every_promise(
    make_shop: Callable[[], Awaitable[Shop]],
    crowds: list[tuple[float, int, int]],
    rate: int,
    manners: list[tuple[bool, float]],
    wanted: int,
) -> None:
    """At most rate * t + burst in any t seconds; a request that obeys Retry-After gets a token."""
    bucket = Bucket((await make_shop()).redis, Tier(rate=rate, burst=2 * rate + 1))
    names = (f"n{n}" for n in itertools.count())
    start_s = await bucket.now_s()
    visits = [
        Visit(start_s + at_s, [next(names) for _ in range(count)], process)
        for at_s, count, process in crowds
    ]
    heapq.heapify(visits)
    manner = itertools.cycle(manners)
    granted: list[tuple[float, float]] = []  # not before, not after
    while visits and visits[0].at_s < start_s + 12:
        visit = heapq.heappop(visits)
        before_s = await bucket.now_s()
        if before_s < visit.at_s:
            await bucket.pass_time(visit.at_s - before_s)
            before_s = await bucket.now_s()
        reply = await bucket.ask(*visit.names, wanted=wanted)
        after_s = await bucket.now_s()
        # Leased tokens are all spent, as late as they may be.
        granted += [(before_s + LEASE_S, before_s + LEASE_S)] * reply.leased
        for name, wait_s in zip(visit.names, reply.waits_s, strict=True):
            if wait_s == 0:
                granted.append((before_s, after_s))
                continue
            assert not visit.promised, f"{name} came at its turn and was refused"
            obeys, late_s = next(manner)
            if obeys:
                back_s = after_s + max(1, math.ceil(wait_s)) + late_s
                process = (visit.process + 1) % 4
                heapq.heappush(visits, Visit(back_s, [name], process, promised=True))
    granted.sort()
    for i, (first_s, _) in enumerate(granted):
        for j in range(i, len(granted)):
            bound = rate * (granted[j][1] - first_s) + 2 * rate + 1
            assert j - i + 1 <= bound + 1e-6, (i, j)
