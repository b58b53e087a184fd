"""Orders in PostgreSQL, which alone decides whether an order exists, and their outbox of events.

It promises that an order changes its state by compare-and-set, together with the inventory, the
stock return and the event of that change. It relies on the SQL functions `place` and `release`
(`sql/0002_place_and_release.sql`). Begin with `orders.py`.
"""
