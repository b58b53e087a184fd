"""Everything on one machine: stores, gateways and a pool of consumers under one supervisor.

Promise: what `seckill up` starts answers before it is called ready, comes back on the same ports
with the same data, and is gone after `seckill down`. A store that the environment gives is used as
it is.

Relies on: `ops.processes`, and the servers that `discovery.py` finds.

Begin with `supervisor.py`; `services.py` starts the stores.
"""
