"""The units of a sale in Redis: reserved by holders, listed in the outbox, returned exactly once.

It promises that no unit is reserved twice and that no unit is lost: a unit belongs to the stock or
to exactly one holder. It relies on the scripts of `lua/`, each of which is one atomic step. Begin
with `reservations.py`, which has a typed method for each script.
"""
