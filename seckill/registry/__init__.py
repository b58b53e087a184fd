"""The processes of the installation: each reports how it fares, and an operator's page reads it.

Promise: a process that cannot report works on as ever, and one that has ended is forgotten.

Relies on: one hash in Redis (`lua/README.md`), which expires when no process reports any more.

Begin with `processes.py`, what is reported; `heartbeat.py` reports it.
"""
