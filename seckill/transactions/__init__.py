"""Transactions over several branches, each of which answers for its own data alone.

tcc.py holds something at every branch, then confirms or cancels all of them; saga.py does steps
one by one, and undoes them in reverse. Both keep their state in log.py, pass barrier.py, and are
resumed by recovery.py.
"""
