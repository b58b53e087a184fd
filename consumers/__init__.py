"""The worker roles: each consumes a queue, or looks for work by the clock.

Promise: every accepted grab becomes an order or a named dead letter, unpaid orders end on time, and
units return exactly once. A role may be killed at any instant and may run in many processes: all
its work is safe to repeat, and a message is acknowledged after the commit only.

Relies on: `seckill` for the rules and the stores. No file here knows the gateway.

Begin with `registry.py`, the table of roles, and `roles/place_orders.py`, the first of them.
`main.py` is the process, `runtime/` is how a role runs.
"""
