"""Rounds of conversations: each has a seed that makes the same ones again."""

from __future__ import annotations

import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.conversations import Conversation, conversations
from tests.fuzz.twins import Twins

#: Conversations of one round.
ROUND = 200


def run_round(twins: Twins, number: int, count: int = ROUND) -> None:
    """Hold the conversations of a round; raise the failure of the smallest one that fails."""

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations())
    def compare(conversation: Conversation) -> None:
        twins.compare(conversation)

    compare()


def run(twins: Twins, first: int, seconds: float, report: Callable[[str], None]) -> None:
    """Run rounds with the seeds `first`, `first` + 1 and so on, until the time is up."""
    began = time.monotonic()
    number = first
    while (passed := time.monotonic() - began) < seconds:
        report(
            f"{passed:.0f} of {seconds:.0f} s, seed {number}: {twins.conversations} conversations, "
            f"{twins.exactly_alike} answered alike to the byte"
        )
        try:
            run_round(twins, number)
        except BaseException:
            report(f"failed; the same again: sh scripts/fuzz --seed {number}")
            raise
        number += 1
    report(f"done: {twins.conversations} conversations, {twins.exactly_alike} alike to the byte")
