"""Whether the stores do the work of a process: looked at in the background, told at once.

Promise: an answer about health never waits for a store, whatever hangs.

Relies on: the clients that the process works with, so that a look sees what the work would see.

Begin with `watch.py`; `stores.py` says what is looked at.
"""
