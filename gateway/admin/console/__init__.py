"""The console: a page on the admin port for the operators of the whole installation.

Promise: nothing is read for it while no page is open, and once a second however many are; it
changes nothing by itself: each button is a call of the admin API, with its audit row.

Relies on: the registry of processes, the health watch of this gateway, and the admin API.

Begin with `routes.py`; `hub.py` makes the snapshot of each second.
"""
