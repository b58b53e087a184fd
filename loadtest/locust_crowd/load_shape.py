"""How many users are at a sale that opens: they gather, all come at the opening, and leave.

Imported by the locust process, so it needs nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Of all users, this many have the page open before the opening; the others come with it.
EARLY_SHARE = 0.6
#: Of the time after the opening, all of them stay for so long; then more and more leave.
STAY_SHARE = 0.6
#: While they leave, so many halvings: one in sixteen stays to the end.
HALVINGS = 4
#: In the end no user is there for so long: locust's workers report each 3 s, and what happened
#: after the last report would be missing from its figures.
CLOSING_S = 4.0


@dataclass(frozen=True, slots=True)
class FlashCurve:
    """The curve. All times count from its beginning, where no user is there yet."""

    users: int
    opens_s: float
    ends_s: float

    def users_at(self, t_s: float) -> int | None:
        """Return how many users are there at a moment; None when it is over."""
        closes_s = self.ends_s - CLOSING_S
        leaves_s = self.opens_s + STAY_SHARE * (closes_s - self.opens_s)
        if t_s >= self.ends_s:
            return None
        if t_s < self.opens_s:  # few come long before, more and more shortly before
            return round(self.users * EARLY_SHARE * (t_s / self.opens_s) ** 2)
        if t_s < leaves_s:
            return self.users
        if t_s >= closes_s:
            return 0
        left = (t_s - leaves_s) / (closes_s - leaves_s)
        return max(1, round(self.users * 2 ** (-HALVINGS * left)))
