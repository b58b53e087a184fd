"""A flash sale with locust's users: honest buyers and bots, whose answers must be true.

`sh scripts/locust` runs `__main__.py`: a private stack, the crowd, and the ledger at the end. The
crowd is locust's own process, from `.venv-load`, which has neither aiohttp nor the stores'
clients: `locustfile.py` (options, checks before a run, the report), `users.py` (what users do),
`load_shape.py` (how many there are) and `expectations.py` (which answers are allowed, and true).
Begin with `users.py`.
"""
