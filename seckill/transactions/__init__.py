"""Transactions over several branches, each of which owns its data: TCC and Saga, with one log.

They promise that every Try ends in exactly one Confirm or Cancel, and that every failed Saga ends
compensated or parked for an operator, whatever process is killed. They rely on the log and on the
barrier, both in PostgreSQL. Begin with `states.py` (the words) and `branches.py`, then `tcc.py` or
`saga.py`; `recovery.py` finishes what a killed process left.
"""
