"""The search for a server's knee."""

from __future__ import annotations

import pytest

from loadtest.crowd.knee import FIRST_RATE, Knee, find_knee
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest


class Server:
    """Answers 202 in time up to a rate, and 503 to all above; the generator has a limit, too."""

    def __init__(self, knee: float, generator_max: float = 1e9) -> None:
        self.knee, self.generator_max = knee, generator_max
        self.rates: list[float] = []

    async def trial(self, rate: float) -> CrowdReport:
        self.rates.append(rate)
        late_s = 1.0 if rate > self.generator_max else 0.0
        good = min(1.0, self.knee / rate, self.generator_max / rate)
        report = CrowdReport(100 / rate)
        for n in range(100):
            status = 202 if n < 100 * good else 503
            due_s = n / rate + 1
            end_s = due_s + late_s + 0.01
            report.requests.append(
                PlannedRequest(due_s, b"", sent_s=due_s + late_s, answered_s=end_s, status=status)
            )
        return report


@pytest.mark.parametrize("knee", [70, 999, 1_000, 1_500, 5_700, 31_000])
async def test_a_knee_is_found_to_a_16th_of_the_last_step(knee: float) -> None:
    server = Server(knee)
    found = await find_knee(server.trial, 202)
    step = max(FIRST_RATE, max(server.rates) / 2) / 16
    # 99 of 100 have to be answered: a rate a little above passes.
    assert knee / 0.99 >= found.per_s > knee - step
    assert not found.generator_was_late


async def test_where_the_generator_does_not_keep_up_the_knee_is_a_lower_bound() -> None:
    found = await find_knee(Server(9_000, generator_max=5_000).trial, 202)
    assert 4_700 < found.per_s <= 5_100
    assert found.generator_was_late
    assert found.text().startswith("at least ")


async def test_other_answers_are_none() -> None:
    found = await find_knee(Server(9_000).trial, 409)
    assert found == Knee(0, generator_was_late=False)


async def test_a_rate_that_is_missed_once_is_tried_again() -> None:
    server, trials = Server(5_000), []

    async def trial(rate: float) -> CrowdReport:
        trials.append(rate)
        first = trials.count(rate) == 1
        return await Server(1).trial(rate) if first else await server.trial(rate)

    assert (await find_knee(trial, 202)).per_s == 5_000
