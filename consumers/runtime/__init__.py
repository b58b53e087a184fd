"""How roles run: consuming and merging messages, polling, retries, supervision.

Promise: a message is acknowledged after its handler has finished; a failed message is retried after
a delay or dead-lettered; while a store is unavailable the work is held and no message is lost.

Relies on: `seckill.errors` to distinguish these cases, and on the quorum queues of RabbitMQ,
which deliver again what was not acknowledged.

Begin with `role.py`, then `queue_role.py` or `poll_role.py`; `retries.py` has the table of errors.
"""
