"""Rate limits as data: profiles of tiers, read from `limits.toml` or a file of the same form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from config.settings import BadSettings

DEFAULT_FILE = Path(__file__).with_name("limits.toml")

#: Buckets count millionths of tokens in a double, which is exact up to 2**53.
RATE_MAX = 1_000_000_000

Op = Literal["try", "confirm", "cancel"]
OPS: tuple[Op, ...] = ("try", "confirm", "cancel")

Rate = Annotated[int, msgspec.Meta(ge=0, le=RATE_MAX)]


def burst_of(rate: int) -> int:
    """Return the default burst of a rate: enough to keep tokens for names that wait."""
    return min(2 * rate + 1, RATE_MAX)


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limit of one operation of one sale, over all processes. Rates are per second."""

    rate: Rate = 0
    rate_per_core: Rate = 0
    burst: Rate = 0
    excess: Literal["reject", "defer"] = "reject"
    mode: Literal["enforce", "shadow", "off"] = "enforce"
    without_redis: Literal["open", "closed"] = "closed"

    def __post_init__(self) -> None:
        if bool(self.rate) == bool(self.rate_per_core):
            raise ValueError("give either rate or rate_per_core, of at least 1")

    def sized(self, cores: int) -> Tier:
        """Return the tier for a machine: with a rate and a burst."""
        rate = self.rate or min(self.rate_per_core * cores, RATE_MAX)
        return msgspec.structs.replace(
            self, rate=rate, rate_per_core=0, burst=self.burst or burst_of(rate)
        )


class LocalLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A limit of each process by itself; a rate of 0 is no limit."""

    rate: Rate = 0
    burst: Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX)] = 1


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of one profile."""

    try_: Tier = msgspec.field(name="try")
    confirm: Tier
    cancel: Tier
    buyer: LocalLimit = LocalLimit()
    address: LocalLimit = LocalLimit()

    def __post_init__(self) -> None:
        # A buyer gets a refusal within milliseconds; deferred grabs would look like a slow machine.
        if self.try_.excess != "reject":
            raise ValueError('try: excess must be "reject"')

    def tier(self, op: Op) -> Tier:
        """Return the tier of an operation."""
        return {"try": self.try_, "confirm": self.confirm, "cancel": self.cancel}[op]


def load_limits(profile: str, file: Path | None = None) -> Limits:
    """Read a profile, sized for this machine; raise BadSettings if it cannot be used."""
    path = file or DEFAULT_FILE
    try:
        profiles = msgspec.toml.decode(path.read_bytes(), type=dict[str, Limits])
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path}: {error}") from error
    try:
        limits = profiles[profile]
    except KeyError as error:
        known = ", ".join(profiles)
        raise BadSettings(f"{path} has no profile {profile}; there are: {known}") from error
    cores = len(os.sched_getaffinity(0))
    return msgspec.structs.replace(
        limits,
        try_=limits.try_.sized(cores),
        confirm=limits.confirm.sized(cores),
        cancel=limits.cancel.sized(cores),
    )
