"""A buyer's order after the grab: shown, streamed as it changes, cancelled.

Promise: an order that was granted is found whether its row exists yet or not, and its buyer alone
sees it.

Relies on: PostgreSQL for rows, and the reservations of `gateway.grabs` to look up the holders in
Redis for what has no row yet.

Begin with `lookup.py`. `watcher.py` has the changes for the streams of `event_stream.py`.
"""
