"""Whether all is ready for a sale, as `seckill sale check` says.

Promise: each check is one line, which says what to do; a store that is unavailable is one, too.

Relies on: the preflight of the stores, and the registry in which processes report.

Begin with `sale.py`; `host.py` has what only this host knows.
"""
