"""The open-loop crowd: grabs go out on a schedule, however slow the answers are.

`python -m loadtest.crowd` is `__main__.py`. `schedule.py` has when grabs are due, `offer.py` sends
them through `generator.py`, and `report.py` has percentiles and whether the run is valid. `python
-m loadtest.crowd.ceiling` finds the most that the generator can offer by itself, and `python -m
loadtest.crowd.plots` draws pictures. Begin with `offer.py`; the drills use it, too.
"""
