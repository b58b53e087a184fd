"""Sales as buyers see them, and what buyers need before a grab: tickets and proofs of work.

Promise: `remaining` is at most a second old. The costly check of a login is done before the
opening, so that the opening second verifies tickets alone.

Relies on: the cached list of sales, and Redis to burn the nonce of each proof once.

Begin with `routes.py`, then `tickets.py` and `challenges.py`.
"""
