"""The buyer's side in Python: what a shop's own program needs to grab, watch and pay.

Promise: a call is repeated only where a repeat is safe, and waits as the server asks; a call that
fails raises one of three errors (`errors.py`), whose `code` is stable.

Relies on: the gateway's HTTP contract and aiohttp, and on no other package of the project, so that
a shop installs it alone. `answers.py`, `clock.py`, `proof_of_work.py` and `retries.py` do no I/O
and need the standard library only; locust's users share them.

Begin with `client.py`: `SeckillClient` is the connection to a gateway, `BuyerClient` (`buyer.py`)
one buyer who is logged in. docs/python-client.md has an example that runs.
"""
