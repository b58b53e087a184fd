"""The consumer pool: how many processes run each role, changed while they run.

Promise: what was asked for is in force soon, a worker that dies comes back, and no message is lost
when a worker leaves. The manager may be killed at any time: it alone writes `pool.json`, and the
next one goes on from there.

Relies on: `ops.processes` to keep workers alive; the metrics of workers, and the stores, for its
figures.

Begin with `manager.py`; `plan.py` says which worker runs which role.
"""
