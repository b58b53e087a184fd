"""Whether Redis and PostgreSQL agree on a sale, and how they are made to agree again.

It promises that a comparison never stops a sale, that a repair does nothing which an undisturbed
sale would not do, and that each change is on record. It relies on ids: every holder and every row
carries an order_id, so the stores are compared name by name and never by counting messages. Begin
with `verify.py` (the invariants), then `diff.py` and `repair.py`; `fencing.py` and `rebuild.py` are
for a Redis that lost a sale.
"""
