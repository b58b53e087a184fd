"""Load runs: what `make bench`, the crowds and the drills measure. No part of the product.

Each run starts private stores, gateways and consumers (`stack.py`), offers load, and compares the
answers with the ledger; `findings.py` prints what was measured beside what is promised. It relies
on `ops` for processes, and uses the gateways over HTTP alone. Begin with `stack.py`, then read the
wing: `bench` compares with other servers, `crowd` offers an open loop, `drills` break things under
load, `locust_crowd` is a flash sale with locust's users.
"""
