"""Where spans go, and where the trace of an order is kept and found.

Promise: export never blocks or ends a process: a bounded queue, a thread of its own, and a count of
what was dropped. With tracing off nothing of OpenTelemetry is imported.

Relies on: `seckill.spans`, which records, and the SDK of OpenTelemetry (extra `otel`), which sends.

Begin with `starting.py`; `order_traces.py` is the table, `tree.py` what `seckill trace` prints.
"""
