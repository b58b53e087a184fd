"""Benchmarks: how fast the gateway is beside other servers, and what a grab costs.

`python -m loadtest.bench` (`make bench`) is `__main__.py`: the table, and the bounds that it
checks. `sides.py` and `order_sides.py` are what it measures, by wrk (`wrk.py`) and beside the
servers in `peers`. `python -m loadtest.bench.growth` is `growth.py`: the cost of a grab with many
holders or sales, measured by `grab_costs.py` on holders that `holders.py` writes. Begin with
`__main__.py`.
"""
