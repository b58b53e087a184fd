"""Sales: their terms, states and units, and the rate limits of each sale.

It promises that a sale is created, opened, restocked and limited in both stores, and that a crash
in between is repaired by the same command again. It relies on the lock of the sale's row in
PostgreSQL. Begin with `sales.py`; `token_buckets.py` is the one part that every grab passes.
"""
