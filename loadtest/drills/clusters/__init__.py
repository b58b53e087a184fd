"""Stores of several nodes whose leader is killed, frozen and cut off under a flash crowd.

`python -m loadtest.drills.clusters STORE`. Each store has a file that starts its nodes on the
loopback interface and breaks them; tests use the same. `frame.py` is the drill itself: begin there.
"""
