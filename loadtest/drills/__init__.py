"""Drills: what an operator fears happens under load, and the ledger has to balance afterwards.

Each module is a command, `python -m loadtest.drills.NAME`: `outages` (PostgreSQL down, an order
that fails through all retry queues, an emptied Redis), `overload` (ten times the limit, three
times the capacity), `connections` (a connection for each buyer, `connection_trials.py` and
`storm_findings.py`), `fairness` (one hot sale beside small ones), `card_payments` (an unreliable
provider), `kills` (processes killed during payments), `external_payments` (payments of the shop's
own checkout, by `shop_checkout.py`), `clusters` (stores of several nodes), `hosts` (hosts of
gateways and consumers, by `network.py`), `tcc_throughput` (the transaction engine).
`buyers.py` is what they share. Begin with `outages.py`.
"""
