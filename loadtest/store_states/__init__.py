"""States of private stores that live and refuse: each is entered and left by a context manager.

It promises that a store is as it was when a state has been left. It relies on stores that we run
ourselves. Begin with `states.py`, the table of all of them; docs/store-states.md says what each
means to buyers and operators.
"""
