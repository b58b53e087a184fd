"""The open-loop crowd: grabs go out on a schedule, however slow the answers are.

`python -m loadtest.crowd` is `__main__.py`. `schedule.py` has when grabs are due, and `report.py`
has percentiles and whether the run is valid. `offer.py` sends grabs on connections that stay open,
through `generator.py`; `generator_processes.py` sends each on a connection of its own, through
`connection_each.py`. `knee.py` finds the highest rate that is answered well, `python -m
loadtest.crowd.ceiling` the most that the generator can offer by itself, and `python -m
loadtest.crowd.plots` draws pictures. Begin with `offer.py`; the drills use it, too.
"""
