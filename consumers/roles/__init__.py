"""The roles, one file each: its promise, its constants, its class, and `build()` at the end.

Promise: a handler or a `run_once` may run twice for the same work, and may be killed in the middle.
An error that a role raises says what to do with the message (`runtime/retries.py`).

Relies on: `resources.py` for the stores, `runtime/` to be called, `seckill` for each rule.

Begin with `place_orders.py` (a queue) and `sweep.py` (a poller). A new role is a file here and a
line in `registry.py`. Only `fence.py` has no line there: it runs as a part of `reconcile.py`.
"""
