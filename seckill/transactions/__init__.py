"""Transactions over several branches, each of which has a database of its own to answer for.

tcc.py holds units and then confirms or cancels all of them; saga.py does steps and undoes them in
reverse. Both keep their state in log.py, pass barrier.py, and are resumed by recovery.py.
"""
