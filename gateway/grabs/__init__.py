"""`POST /v1/sales/{sale_id}/grabs`: the request that a million buyers send in one second.

Promise: a grab that was answered 202 cannot be lost. A buyer who holds a live order is never
answered 403, 409 or 410. No unit is touched before every check has passed.

Relies on: the sale's script in Redis, which decides in one atomic step and writes the outbox in the
same step, and on the relay for what the broker did not confirm.

Begin with `pipeline.py`, the checks in their order. `connection.py` and `routes.py` are the two
ways in, `reservations.py` calls the script in batches, and `publisher.py` brings what was accepted
to the broker.
"""
