"""A differential fuzzer: grabs taken by the connection get the answers that aiohttp gives.

Begin with `conversations.py`, which says what a client may send on one connection. `twins.py` sends
it to two gateways, and `comparison.py` knows which differences are none. `python -m tests.fuzz` is
the long run; `tests/acceptance/test_fuzz.py` is the short one.
"""
